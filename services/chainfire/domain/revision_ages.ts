/** Points remembered over the age: compaction by age is exact to this part of it. */
const pointsMax = 20;

/** When which revision was the newest, as far back as history is to be kept. Of the member that leads. */
export class RevisionAges {
  readonly #ageMsMax: number;
  readonly #points: { readonly atMs: number; readonly revision: number }[] = [];

  /** 0: nothing is ever too old. */
  constructor(ageMsMax: number) {
    this.#ageMsMax = ageMsMax;
  }

  /** Notes the newest revision; answers the newest one that was so longer ago than the age, 0 when there is none. */
  due(nowMs: number, revision: number): number {
    if (this.#ageMsMax === 0) return 0;
    const last = this.#points.at(-1);
    if (!last || nowMs - last.atMs >= this.#ageMsMax / pointsMax) this.#points.push({ atMs: nowMs, revision });
    let due = 0;
    while (this.#points.length > 0 && nowMs - this.#points[0]!.atMs >= this.#ageMsMax) {
      due = this.#points.shift()!.revision;
    }
    return due;
  }
}
