// The visible part of the timeline, in ticks, and the round numbers along it.

class View {
  /** @param {number} length ticks in the whole timeline */
  constructor(length) {
    this.length = Math.max(1, length);
    this.smallest = Math.max(1, this.length / 5000);
    this.start = 0;
    this.end = this.length;
  }

  fit() { this.moveTo(0, this.length); }
  get span() { return this.end - this.start; }

  /**
   * Show fewer ticks or more while the tick `around` stays where it is, but nothing beyond either end.
   * @param {number} factor above 1 to show fewer
   * @param {number} around
   */
  zoom(factor, around) {
    const span = Math.min(this.length, Math.max(this.smallest, this.span / factor));
    const part = (around - this.start) / this.span;
    this.moveTo(around - part * span, span);
  }

  /** @param {number} ticks */
  pan(ticks) { this.moveTo(this.start + ticks, this.span); }

  /**
   * @param {number} start
   * @param {number} span
   */
  moveTo(start, span) {
    this.start = Math.min(Math.max(0, start), this.length - span);
    this.end = this.start + span;
  }
}

/**
 * The step between round values, of which at most `most` lie between two numbers.
 * @param {number} low
 * @param {number} high
 * @param {number} most
 */
function roundStep(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5].map((by) => by * power).find((step) => step >= raw) ?? 10 * power;
}

/**
 * The first index whose value is above `bound`, given ascending values.
 * @param {number[]} values
 * @param {number} bound
 */
function firstAbove(values, bound) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > bound) high = middle;
    else low = middle + 1;
  }
  return low;
}
