import { rangeHas } from "../domain/ranges.ts";
import type { KeyRange, KvEvent } from "../domain/types.ts";
import type { WatchStream } from "./stream.ts";

/** What a caller wants to see. */
export interface WatchSpec extends KeyRange {
  readonly id: bigint;
  /** First revision to tell of. */
  readonly from: number;
  readonly prevKv: boolean;
  readonly noPut: boolean;
  readonly noDelete: boolean;
  /** A revision may come in several messages. */
  readonly fragments?: boolean;
}

/** One watch of a stream: live, or still reading history from `next` on. */
export class Watch {
  readonly spec: WatchSpec;
  readonly stream: WatchStream;
  next: number;

  constructor(spec: WatchSpec, stream: WatchStream) {
    this.spec = spec;
    this.stream = stream;
    this.next = spec.from;
  }

  wants(event: KvEvent): boolean {
    const { spec } = this;
    return event.kv.modRevision >= spec.from && !(event.type === "put" ? spec.noPut : spec.noDelete) &&
      rangeHas(spec, event.kv.key);
  }
}
