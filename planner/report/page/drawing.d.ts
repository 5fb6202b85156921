// What the scripts of the page hand to one another. The page itself never loads this file.

/** What an element is given: listeners as functions, everything else as text. Empty values set nothing. */
type Attributes = Record<string, string | number | null | undefined | ((event: any) => void)>;

/** A child of an element; null and undefined stand for none. */
type Child = Node | string | null | undefined;

/** Red, green and blue, 0 to 255. */
type Colour = number[];

/** A colour of the canvas: its parts, as a fill style, and the text that can be read on it. */
type Paint = { rgb: Colour; fill: string; text: string };

/** A part of memory bars: its name, its colour, the colour of text on it, and whether any bar has bytes of it. */
type PartStyle = { name: string; colour: string; text: string; used: boolean };

/** What is drawn for a rank or a stage: its element, and its tooltip line by line. */
type Drawn = { made: HTMLElement; lines: string[] };

/** A stage as drawn, with the first and the last rank of each run of its ranks. */
type DrawnStage = Drawn & { runs: [number, number][] };
