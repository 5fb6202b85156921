// The visible part of the timeline, in ticks, and round numbers along it.

class View {
  constructor(length) {
    this.length = Math.max(1, length);
    this.smallest = Math.max(1, this.length / 5000);
    this.fit();
  }

  fit() { this.start = 0; this.end = this.length; }
  get span() { return this.end - this.start; }

  /** Show `span` ticks with the tick `around` where it is now; never beyond either end. */
  zoom(factor, around) {
    const span = Math.min(this.length, Math.max(this.smallest, this.span / factor));
    const part = (around - this.start) / this.span;
    this.moveTo(around - part * span, span);
  }

  pan(ticks) { this.moveTo(this.start + ticks, this.span); }

  moveTo(start, span) {
    this.start = Math.min(Math.max(0, start), this.length - span);
    this.end = this.start + span;
  }
}

/** The step between round values, of which at most `most` lie between two numbers. */
function roundStep(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((by) => by * power).find((by) => by >= raw);
}

/** The first index whose value is above `bound`, in ascending values. */
function firstAbove(values, bound) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > bound) high = middle;
    else low = middle + 1;
  }
  return low;
}
