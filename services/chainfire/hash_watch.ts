import type { Clock } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { Member } from "./member.ts";
import type { StateListener } from "./state/machine.ts";

/**
 * Has the members compare the hash of their state: the leader logs a check, everybody reports what its hash was at that
 * entry, and the state itself raises CORRUPT for whoever differs from the majority. To be asked often.
 */
export class HashWatch implements StateListener {
  readonly #everyMs: number;
  readonly #member: Member;
  readonly #clock: Pick<Clock, "monotonicMs">;
  readonly #log: Logger;
  #checkedMs: number;
  #checkedHash: number | undefined;
  #toReport: { readonly check: number; readonly hash: number } | undefined;
  #busy = false;

  constructor(
    options: { readonly hashCheckMs: number },
    deps: { readonly member: Member; readonly clock: Pick<Clock, "monotonicMs">; readonly log: Logger },
  ) {
    this.#everyMs = options.hashCheckMs;
    this.#member = deps.member;
    this.#clock = deps.clock;
    this.#log = deps.log;
    this.#checkedMs = deps.clock.monotonicMs();
  }

  /** While the log is replayed the newest check takes the place of older ones. */
  hashChecked(check: number, hash: number): void {
    this.#toReport = { check, hash };
  }

  look(): void {
    if (this.#busy) return;
    const { state, group, options } = this.#member;
    const report = this.#toReport;
    if (report) {
      this.#toReport = undefined;
      return this.#do(
        this.#member.propose({ kind: "report_hash", member: options.memberId, ...report }),
        () => {
          // Another report may be due by now: that one counts.
          this.#toReport ??= report;
        },
      );
    }
    const nowMs = this.#clock.monotonicMs();
    if (this.#everyMs === 0 || nowMs - this.#checkedMs < this.#everyMs || group.status().role !== "leader") return;
    this.#checkedMs = nowMs;
    // Nothing has changed since, or there is nobody to compare with.
    if (state.members.size < 2 || state.stateHash === this.#checkedHash) return;
    this.#checkedHash = state.stateHash;
    this.#do(this.#member.proposeLeading({ kind: "check_hash" }), () => {});
  }

  #do(work: Promise<unknown>, failed: () => void): void {
    this.#busy = true;
    work.catch((error) => {
      this.#log.debug("the hash could not be compared yet", { error });
      failed();
    }).finally(() => this.#busy = false);
  }
}
