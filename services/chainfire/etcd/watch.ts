import { create } from "@bufbuild/protobuf";
import { compareBytes, Fault } from "@ultracloud/base";
import {
  AddWatchRequestSchema,
  CancelWatchRequestSchema,
  RequestProgressRequestSchema,
  WatchCreateSchema,
  WatchRequestSchema,
  WatchService,
} from "@ultracloud/proto/chainfire/v1";
import { isOpenEnd } from "../domain/ranges.ts";
import type { HeaderInit } from "./encode.ts";
import { bool, bytes, int64, type Json, list, object, oneOf, parseObject } from "./json_read.ts";
import { jsonValues } from "./json_stream.ts";
import { type Path, type Several, streamPath } from "./paths.ts";
import { cancelledLine, createdLine, eventsLine, progressLine, refusedLine } from "./watch_lines.ts";

const { method } = WatchService;
/** etcd's own interval between notes of progress. */
const progressMs = 600_000;
const filters = ["NOPUT", "NODELETE"] as const;
const firstKey = new Uint8Array([0]);

interface Known {
  /** The id of the stream here: etcd's may be any number. */
  readonly inner: bigint;
  readonly outer: bigint;
  readonly notify: boolean;
}

/**
 * One body of `/v3/watch`: requests that come one after the other and lines that go out meanwhile. A request is taken
 * once the line that answers the one before has been given out, so that answers come in the order of requests.
 */
class Adapter {
  readonly #several: Several;
  readonly #present: () => HeaderInit;
  readonly #byOuter = new Map<bigint, Known>();
  readonly #byInner = new Map<bigint, Known>();
  #nextInner = 0n;
  #nextOuter = 0n;
  #streamId = "";
  #asked = false;
  /** What waits to be read, and who waits for it to be read or for something to wait. */
  #lines: string[] = [];
  #wake: (() => void) | undefined;
  #taken: (() => void) | undefined;
  #answered: (() => void) | undefined;
  #failure: unknown;
  #over = false;

  constructor(several: Several, present: () => HeaderInit) {
    this.#several = several;
    this.#present = present;
  }

  async *run(body: ReadableStream<Uint8Array> | null): AsyncGenerator<string, void, undefined> {
    const end = new AbortController();
    const signal = AbortSignal.any([this.#several.caller.signal, end.signal]);
    const caller = { ...this.#several.caller, signal };
    const stop = (error?: unknown) => {
      this.#failure ??= error;
      this.#over = true;
      end.abort();
      for (const wake of [this.#wake, this.#taken, this.#answered]) wake?.();
    };
    const pumping = this.#pump({ ...this.#several, caller }, body).then(() => stop(), stop);
    try {
      for (;;) {
        const lines = this.#lines;
        this.#lines = [];
        this.#taken?.();
        yield* lines;
        if (this.#lines.length > 0) continue;
        if (this.#over) break;
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
      // Over may be known before the reason is.
      await pumping;
      if (this.#failure !== undefined) throw this.#failure;
    } finally {
      stop();
      await pumping;
    }
  }

  /** Takes what the stream here tells, and requests as soon as it has a name. */
  async #pump(several: Several, body: ReadableStream<Uint8Array> | null): Promise<void> {
    const { calls, caller } = several;
    const first = () => create(WatchRequestSchema, { progressIntervalMs: progressMs });
    let requests: Promise<void> | undefined;
    let failure: unknown;
    const stopped = new AbortController();
    const inner = { ...caller, signal: AbortSignal.any([caller.signal, stopped.signal]) };
    try {
      for await (const message of calls.stream(method.watch, inner, first)) {
        if (message.streamId) {
          this.#streamId = message.streamId;
          requests = this.#take(several, body).catch((error) => {
            failure = error;
            stopped.abort();
          });
        } else {
          this.#tell(message);
        }
        // Nothing more is taken from the store than is read: it cuts off who does not read.
        while (this.#lines.length > 0 && !this.#over) await new Promise<void>((resolve) => this.#taken = resolve);
        if (this.#over) return;
      }
    } catch (error) {
      throw failure ?? error;
    } finally {
      stopped.abort();
      this.#over = true;
      this.#answered?.();
      await requests;
    }
    if (failure !== undefined) throw failure;
  }

  #tell(message: Parameters<typeof eventsLine>[0]): void {
    const { watchId = 0n, created, cancelled } = message;
    if (watchId === -1n && !cancelled) {
      if (this.#asked) {
        this.#asked = false;
        this.#say(progressLine(message.header, -1n));
        return this.#answered?.();
      }
      for (const { outer, notify } of this.#byOuter.values()) {
        if (notify) this.#say(progressLine(message.header, outer));
      }
      return;
    }
    if (watchId === -1n) {
      for (const { outer } of this.#byOuter.values()) this.#say(cancelledLine(message, outer, true));
      return;
    }
    const known = this.#byInner.get(watchId);
    if (known === undefined) return;
    if (created) {
      this.#say(createdLine(message.header, known.outer));
      this.#answered?.();
    } else if (cancelled) {
      this.#forget(known);
      this.#say(cancelledLine(message, known.outer, false));
      this.#answered?.();
    } else {
      this.#say(eventsLine(message, known.outer));
    }
  }

  #say(line: string): void {
    this.#lines.push(line);
    this.#wake?.();
  }

  #forget(known: Known): void {
    this.#byOuter.delete(known.outer);
    this.#byInner.delete(known.inner);
  }

  async #take({ calls, caller }: Several, body: ReadableStream<Uint8Array> | null): Promise<void> {
    for await (const text of jsonValues(body, calls.messageBytesMax, caller.signal)) {
      const json = parseObject(text);
      const made = object(json.create_request ?? json.createRequest);
      const cancel = object(json.cancel_request ?? json.cancelRequest);
      const progress = object(json.progress_request ?? json.progressRequest);
      const streamId = this.#streamId;
      let call: () => Promise<unknown>;
      if (made) {
        const watch = this.#known(made);
        if (watch === undefined) continue;
        call = () => calls.unary(method.addWatch, caller, () => create(AddWatchRequestSchema, { streamId, watch }));
      } else if (cancel) {
        const known = this.#byOuter.get(int64(cancel.watch_id ?? cancel.watchId));
        if (known === undefined) continue;
        const watchId = known.inner;
        call = () =>
          calls.unary(method.cancelWatch, caller, () => create(CancelWatchRequestSchema, { streamId, watchId }));
      } else if (progress) {
        this.#asked = true;
        call = () =>
          calls.unary(method.requestProgress, caller, () => create(RequestProgressRequestSchema, { streamId }));
      } else {
        continue;
      }
      const answered = new Promise<void>((resolve) => this.#answered = resolve);
      try {
        await call();
        if (!this.#over) await answered;
      } catch (error) {
        // The watch ended by itself meanwhile.
        if (!(cancel && error instanceof Fault && error.code === "watch_not_found")) throw error;
      }
    }
  }

  /** Notes the watch that is asked for; says so when it is refused. */
  #known(json: Json) {
    const given = bytes(json.key);
    const key = given.length === 0 ? firstKey : given;
    const rangeEnd = bytes(json.range_end ?? json.rangeEnd);
    const kinds = list(json.filters).map((filter) =>
      oneOf(filter, filters, "etcdserverpb.WatchCreateRequest_FilterType")
    );
    const startRevision = int64(json.start_revision ?? json.startRevision);
    const asked = int64(json.watch_id ?? json.watchId);
    if (rangeEnd.length > 0 && !isOpenEnd(rangeEnd) && compareBytes(key, rangeEnd) >= 0) {
      return void this.#say(refusedLine(this.#present(), "mvcc: watcher range is empty"));
    }
    if (asked !== 0n && this.#byOuter.has(asked)) {
      return void this.#say(refusedLine(this.#present(), "mvcc: duplicate watch ID provided on the WatchStream"));
    }
    const outer = asked === 0n ? this.#freeOuter() : asked;
    const known = { inner: this.#nextInner++, outer, notify: bool(json.progress_notify ?? json.progressNotify) };
    this.#byOuter.set(known.outer, known);
    this.#byInner.set(known.inner, known);
    return create(WatchCreateSchema, {
      watchId: known.inner,
      key,
      rangeEnd,
      // History begins at 1: what is asked for before it is gone.
      startRevision: startRevision < 0n ? 1n : startRevision,
      prevKv: bool(json.prev_kv ?? json.prevKv),
      noPut: kinds.includes("NOPUT"),
      noDelete: kinds.includes("NODELETE"),
      fragment: bool(json.fragment),
    });
  }

  #freeOuter(): bigint {
    while (this.#byOuter.has(this.#nextOuter)) this.#nextOuter++;
    return this.#nextOuter++;
  }
}

export function watchPath(present: () => HeaderInit): Path {
  return streamPath((several, request) => new Adapter(several, present).run(request.body), "unknown");
}
