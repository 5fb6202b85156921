// The classes of content.py, as test_the_page_is_type_checked.py writes them with --update-golden.

declare namespace Content {
  interface KeyFigure {
    label: string;
    value: string;
    note: string;
    tone: string;
  }

  interface Notice {
    text: string;
    is_problem: boolean;
  }

  interface Sizes {
    stage: number;
    lane: number;
    cp: number;
    tp: number;
  }

  interface ModuleRow {
    name: string;
    ranks: string;
    num_ranks: number;
    axes: string;
    sizes: Sizes;
    model: string;
    notes: string;
  }

  interface Place {
    module: number;
    stage: number;
    lane: number;
    cp: number;
    tp: number;
  }

  interface Cell {
    rank: number;
    places: Place[];
  }

  interface NodeRow {
    name: string;
    cells: Cell[];
  }

  interface StageRow {
    module: number;
    stage: number;
    ranks: string;
    num_ranks: number;
    nodes: string;
    runs: [number, number][];
  }

  interface EdgeRow {
    src: number;
    dst: number;
    ratio: string;
    lines: string[];
  }

  interface MemoryPart {
    name: string;
    bytes: number;
  }

  interface MemoryBar {
    module: number;
    where: string;
    num_ranks: number;
    parts: MemoryPart[];
  }

  interface MemoryPanel {
    gpu: string;
    limit: number | null;
    bars: MemoryBar[];
  }

  interface TrafficRow {
    owner: string;
    kind: string;
    what: string;
    wire: string;
    bytes_per_rank: number;
    seconds: number | null;
  }

  interface TimelineRow {
    name: string;
    ranks: string;
    num_ranks: number;
    in_flight: number;
    busy: number;
    waits: string[];
    modules: number[];
    stages: number[];
    microbatches: number[];
    backward: number[];
    starts: number[];
    ends: number[];
    reasons: number[];
    critical: number[];
  }

  interface TimelineContent {
    is_predicted: boolean;
    tick: number;
    makespan: number;
    bubble: number;
    rows: TimelineRow[];
    num_left_out: number;
    reasons: string[];
    path: string[];
  }

  interface Report {
    title: string;
    summary: string;
    num_ranks: number;
    digest: string;
    facts: KeyFigure[];
    modules: ModuleRow[];
    nodes: NodeRow[];
    stages: StageRow[];
    edges: EdgeRow[];
    memory: MemoryPanel | null;
    timeline: TimelineContent | null;
    traffic: TrafficRow[];
    notices: Notice[];
  }
}
