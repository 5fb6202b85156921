// Rows of operations as pixels: how the timeline draws what is too narrow for a number, however many there are.
// A pixel is as strong as the part of it that is computed, so that a row looks as busy as it is.

const FAINTEST = 0.35; // strength of any pixel that is not empty: a lone short operation stays visible

class Strips {
  width = 0;
  ink = 0;
  image = new ImageData(1, 1);
  pixels = new Uint32Array(1);
  // sums of a row over its pixels: colour times strength, strength, and the least that a pixel is shown with
  reds = new Float32Array(0);
  greens = new Float32Array(0);
  blues = new Float32Array(0);
  covered = new Float32Array(0);
  least = new Float32Array(0);

  /** @param {number} numRows */
  constructor(numRows) {
    this.numRows = numRows;
    this.canvas = document.createElement("canvas");
    this.context = contextOf(this.canvas);
  }

  /**
   * Begin a frame. Row r is line 2r of the image, and its marks are line 2r + 1.
   * @param {number} width in pixels
   * @param {Colour} ink what marks the critical path
   */
  begin(width, ink) {
    if (this.width !== width) {
      this.width = width;
      this.canvas.width = width;
      this.canvas.height = 2 * this.numRows;
      this.image = this.context.createImageData(width, 2 * this.numRows);
      this.pixels = new Uint32Array(this.image.data.buffer);
      [this.reds, this.greens, this.blues, this.covered, this.least] = [0, 1, 2, 3, 4].map(() => new Float32Array(width));
    }
    this.pixels.fill(0);
    this.ink = new Uint32Array(new Uint8Array([...ink, 255]).buffer)[0];
  }

  /**
   * Cover the pixels from `left` to `right` of the row that is open. Both may be fractions and lie beyond either end.
   * @param {number} left
   * @param {number} right
   * @param {Colour} colour
   * @param {number} strength 0 to 1
   */
  cover(left, right, [r, g, b], strength) {
    const [from, to] = [Math.max(0, left), Math.min(this.width, right)];
    for (let at = Math.floor(from); at < to; at += 1) {
      const part = strength * (Math.min(to, at + 1) - Math.max(from, at));
      this.reds[at] += part * r;
      this.greens[at] += part * g;
      this.blues[at] += part * b;
      this.covered[at] += part;
      this.least[at] = Math.max(this.least[at], FAINTEST * strength);
    }
  }

  /**
   * Mark at least one pixel of a row as critical.
   * @param {number} row
   * @param {number} left
   * @param {number} right
   */
  mark(row, left, right) {
    const from = Math.max(0, Math.floor(left));
    const to = Math.min(this.width, Math.max(from + 1, Math.round(right)));
    const line = (2 * row + 1) * this.width;
    this.pixels.fill(this.ink, line + from, line + to);
  }

  /**
   * Turn what was covered into the pixels of a row.
   * @param {number} row
   */
  close(row) {
    const data = this.image.data;
    for (let at = 0, into = 8 * row * this.width; at < this.width; at += 1, into += 4) {
      const part = this.covered[at];
      if (!part) continue;
      data[into] = this.reds[at] / part;
      data[into + 1] = this.greens[at] / part;
      data[into + 2] = this.blues[at] / part;
      data[into + 3] = 255 * Math.max(part, this.least[at]);
    }
    for (const sums of [this.reds, this.greens, this.blues, this.covered, this.least]) sums.fill(0);
  }

  /**
   * Show the rows on `context` once all of them are closed.
   * @param {CanvasRenderingContext2D} context
   * @param {number} left
   * @param {number} width
   * @param {number[][]} boxes top, height, and height of the marks of each row
   */
  paint(context, left, width, boxes) {
    this.context.putImageData(this.image, 0, 0);
    context.imageSmoothingEnabled = false;
    boxes.forEach(([top, height, mark], row) => {
      context.drawImage(this.canvas, 0, 2 * row, this.width, 1, left, top, width, height);
      context.drawImage(this.canvas, 0, 2 * row + 1, this.width, 1, left, top + height, width, mark);
    });
  }
}
