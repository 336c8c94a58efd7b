import type { Database } from "@ultracloud/sqlite";
import type { Counters } from "./schema.ts";

/** What members said their state's hash was at the newest check. */
export class HashChecks {
  readonly #db: Database;
  readonly #counters: Counters;

  constructor(db: Database, counters: Counters) {
    this.#db = db;
    this.#counters = counters;
  }

  /** Begins the next check; reports of the one before count no more. */
  begin(): number {
    this.#db.run("DELETE FROM hash_report");
    return ++this.#counters.hashChecks;
  }

  /**
   * Takes a member's report. Answers the members whose state differs: those that disagree with a majority of
   * `members`, or everyone when all have reported and no majority agrees. Every member decides alike.
   */
  report(member: number, check: number, hash: number, members: readonly number[]): readonly number[] {
    if (check !== this.#counters.hashChecks || !members.includes(member)) return [];
    this.#db.run("INSERT OR REPLACE INTO hash_report(member, hash) VALUES(?, ?)", member, hash);
    const reports = this.#db.all<{ member: number; hash: number }>("SELECT member, hash FROM hash_report")
      .filter((report) => members.includes(report.member));
    const counts = new Map<number, number>();
    for (const report of reports) counts.set(report.hash, (counts.get(report.hash) ?? 0) + 1);
    if (counts.size < 2) return [];
    const agreed = [...counts].find(([, count]) => count > members.length / 2)?.[0];
    if (agreed === undefined && reports.length < members.length) return [];
    return reports.filter((report) => report.hash !== agreed).map((report) => report.member);
  }
}
