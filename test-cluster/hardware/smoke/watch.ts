import {
  type AnyMarkerName,
  failureMarkers,
  type MarkerLine,
  type MarkerName,
  markerNames,
} from "@ultracloud/cluster-state";

/** Where a marker was read: the order holds within one source, not between two. */
export type MarkerSource = "serial" | "deployer";

export interface SeenMarker {
  readonly name: AnyMarkerName;
  readonly source: MarkerSource;
  readonly detail: string;
  /** When this program saw it, milliseconds since the epoch. */
  readonly seenMs: number;
}

export type Verdict =
  | { readonly state: "waiting"; readonly next: MarkerName }
  | { readonly state: "passed" }
  | { readonly state: "failed"; readonly marker: AnyMarkerName; readonly reason: string };

const failures: ReadonlySet<string> = new Set(Object.values(failureMarkers));

/** A run has eight markers and an installation that is tried again twice as many; a console that loops has no end. */
const seenMax = 512;

/** Holds what a machine tells against the order in which an installation tells it. */
export class MarkerWatch {
  readonly seen: SeenMarker[] = [];
  /** How often the machine began anew, the first time included. */
  attempts = 0;
  readonly #node: string;
  readonly #position: Record<MarkerSource, number> = { serial: 0, deployer: 0 };
  #failed: Verdict | undefined;

  constructor(node: string) {
    this.#node = node;
  }

  /** Takes a marker of a source; markers of one source come in the order in which they were written. */
  take(line: MarkerLine, source: MarkerSource, nowMs: number): void {
    if (line.node !== this.#node || this.seen.length >= seenMax) return;
    const { name, detail } = line;
    this.seen.push({ name, source, detail, seenMs: nowMs });
    if (this.#failed !== undefined) return;
    if (failures.has(name) || name === "desired-system-rolled-back") {
      this.#failed = { state: "failed", marker: name, reason: detail || "it gave no cause" };
      return;
    }
    const at = (markerNames as readonly string[]).indexOf(name);
    if (at < 0) return;
    const position = this.#position[source];
    if (at === 0) {
      // A power cut: the same path begins again.
      if (source === "serial") this.attempts++;
      this.#position[source] = 1;
    } else if (at >= position) this.#position[source] = at + 1;
    else if (at < position - 1) {
      this.#failed = {
        state: "failed",
        marker: name,
        reason: `out of order: after ${markerNames[position - 1]} of the same ${source} record`,
      };
    }
  }

  verdict(): Verdict {
    if (this.#failed !== undefined) return this.#failed;
    const names = new Set(this.seen.map(({ name }) => name));
    const next = markerNames.find((name) => !names.has(name));
    return next === undefined ? { state: "passed" } : { state: "waiting", next };
  }

  /** Whether the machine waits for a person. */
  get pending(): boolean {
    return this.seen.at(-1)?.name === "pre-install.phone-home.pending";
  }
}
