import { seededRng, systemClock, toHex } from "@ultracloud/base";
import { type EtcdRequest, type Known, RequestSource } from "./test_requests.ts";
import { scripted } from "./test_script.ts";
import { type Answer, canonical, type Exchange, explain, type Json } from "./test_rules.ts";
import type { Side, SideWatch } from "./test_side.ts";

type JsonObject = { readonly [name: string]: Json };

export interface Difference {
  readonly request: number;
  readonly what: string;
  readonly etcd: Json;
  readonly chainfire: Json;
}

export interface Comparison {
  readonly requests: number;
  /** Requests by path and HTTP status of etcd: shows that not everything was an error. */
  readonly answers: Readonly<Record<string, number>>;
  readonly watches: number;
  readonly events: number;
  /** Answers that needed a rule to be equal, by rule. */
  readonly explained: Readonly<Record<string, number>>;
  readonly unexplained: readonly Difference[];
  readonly ms: number;
}

/** Watches live through so many requests before they are compared and others take their place. */
const requestsPerWatch = 60;
const watchesPerBody = 3;
/** Longest that events or an expiry may take to arrive, on a machine however slow. */
const arrivalMsMax = 60_000;

/** Sends the same requests to both servers, one after the other, and compares everything they say. */
export class Comparer {
  readonly #etcd: Side;
  readonly #chainfire: Side;
  readonly #known: Known = { revision: 1, compactRevision: 0, leases: new Set() };
  readonly #source: RequestSource;
  readonly #answers = new Map<string, number>();
  readonly #explained = new Map<string, number>();
  readonly #unexplained: Difference[] = [];
  #sent = 0;
  #watches = 0;
  #events = 0;

  constructor(options: { readonly seed: number }, sides: { readonly etcd: Side; readonly chainfire: Side }) {
    this.#etcd = sides.etcd;
    this.#chainfire = sides.chainfire;
    this.#source = new RequestSource(seededRng(options.seed), this.#known);
  }

  async run(requests: number): Promise<Comparison> {
    const start = performance.now();
    await using everything = await this.#open([{
      create_request: { key: btoa("\0"), range_end: btoa("\0"), prev_kv: true },
    }]);
    await this.#created(everything, 1);
    while (this.#sent < requests && this.#unexplained.length === 0) {
      const specs = distinctIds(Array.from({ length: watchesPerBody }, () => this.#source.watch() as JsonObject));
      await using watched = await this.#open(specs.map((spec) => ({ create_request: spec })));
      const batch = new Batch(specs, this.#known.compactRevision);
      await this.#created(watched, specs.length);
      batch.name(watched.etcd.control);
      await this.#settle(everything, watched, batch);
      for (let i = 0; i < requestsPerWatch && this.#sent < requests && this.#unexplained.length === 0; i++) {
        const request = this.#source.next();
        // What is told before a compaction is told in full; behind it would depend on who is faster.
        if (request.path.endsWith("/compaction")) await this.#settle(everything, watched, batch);
        await this.#exchange(request);
      }
      // Behind one difference everything differs.
      if (this.#unexplained.length > 0) break;
      await this.#settle(everything, watched, batch);
      this.#compareWatches(watched, batch);
    }
    if (this.#unexplained.length === 0) await this.#ending(everything);
    if (this.#unexplained.length === 0) this.#compareWatches(everything, undefined);
    return {
      requests: this.#sent,
      answers: Object.fromEntries([...this.#answers].sort()),
      watches: this.#watches,
      events: this.#events,
      explained: Object.fromEntries([...this.#explained].sort()),
      unexplained: this.#unexplained,
      ms: performance.now() - start,
    };
  }

  async #exchange(request: EtcdRequest): Promise<void> {
    const [etcd, chainfire] = await Promise.all([this.#etcd.send(request), this.#chainfire.send(request)]);
    this.#sent++;
    const key = `${request.path} ${etcd.status}`;
    this.#answers.set(key, (this.#answers.get(key) ?? 0) + 1);
    this.#learn(request, etcd);
    this.#check(request.path, request.body as Json, etcd, chainfire);
  }

  #check(path: string, request: Json, etcd: Answer, chainfire: Answer): void {
    const exchange: Exchange = { path, request, etcd, chainfire };
    const used = explain(exchange);
    for (const name of used ?? []) this.#explained.set(name, (this.#explained.get(name) ?? 0) + 1);
    if (used === undefined) this.#differ(`${path} ${JSON.stringify(request)}`, etcd as never, chainfire as never);
  }

  #differ(what: string, etcd: Json, chainfire: Json): void {
    this.#unexplained.push({ request: this.#sent, what, etcd, chainfire });
  }

  /** Keeps what later requests refer to. */
  #learn({ path, body }: EtcdRequest, { status, body: answer }: Answer): void {
    const header = (answer as { header?: { revision?: string } } | null)?.header;
    this.#known.revision = Math.max(this.#known.revision, Number(header?.revision ?? 0));
    if (status !== 200 || typeof body === "string") return;
    const id = String(body.ID);
    if (path.endsWith("/grant")) this.#known.leases.add(id);
    if (path.endsWith("/revoke")) this.#known.leases.delete(id);
    if (path.endsWith("/compaction")) {
      this.#known.compactRevision = Math.max(this.#known.compactRevision, Number(body.revision));
    }
  }

  async #open(requests: readonly JsonObject[]): Promise<Pair> {
    this.#watches += requests.length;
    const [etcd, chainfire] = await Promise.all([this.#etcd.watch(requests), this.#chainfire.watch(requests)]);
    return new Pair(etcd, chainfire);
  }

  async #created(pair: Pair, count: number): Promise<void> {
    const made = (watch: SideWatch) => watch.control.filter((message) => message.created === true).length;
    await pair.both(`${count} watches are created`, (watch) => made(watch) >= count);
  }

  /** Waits until both sides have told all that happened so far, to the watch of everything and then to the others. */
  async #settle(everything: Pair, watched: Pair, batch: Batch): Promise<void> {
    const { revision } = this.#known;
    const told = (watch: SideWatch) => watch.events.at(-1)?.revision ?? 1;
    await everything.both(`changes up to ${revision} are told`, (watch) => told(watch) >= revision);
    const all = everything.etcd.events.map(({ event }) => event);
    for (const { watch, spec, from } of batch.live) {
      const wanted = all.filter((event) => wants(spec, from, event) && !batch.mayMiss(from, event)).length;
      await watched.both(
        `watch ${watch} tells ${wanted} changes`,
        (side) => side.events.filter((e) => e.watch === watch && !batch.mayMiss(from, e.event)).length >= wanted,
      );
    }
    for (const watch of batch.cancelled) {
      await watched.both(
        `watch ${watch} is cancelled`,
        (side) => side.control.some((m) => String(m.watch_id ?? 0) === watch && m.canceled === true),
      );
    }
  }

  #compareWatches(pair: Pair, batch: Batch | undefined): void {
    const control = (watch: SideWatch): Answer => ({ status: watch.status, body: watch.control });
    this.#check("/v3/watch control", batch?.specs ?? null, control(pair.etcd), control(pair.chainfire));
    const raw = (watch: SideWatch) => canonical(watch.events.map(({ watch, event }) => ({ watch, event })));
    const tell = (watch: SideWatch) => {
      const kept = watch.events.filter((e) => !batch?.mayMiss(batch.fromOf(e.watch), e.event));
      return kept.map(({ watch, event }) => ({ watch, event: batch?.boundary(event) ?? event }));
    };
    // Watches of one body are told apart by their ids; how they take turns is nobody's business.
    const ids = new Set([...pair.etcd.events, ...pair.chainfire.events].map(({ watch }) => watch));
    for (const id of ids) {
      const [etcd, chainfire] = [pair.etcd, pair.chainfire].map((side) => tell(side).filter((e) => e.watch === id));
      this.#events += etcd!.length;
      const at = etcd!.findIndex((event, i) => canonical(event) !== canonical(chainfire![i] ?? null));
      if (at >= 0 || etcd!.length !== chainfire!.length) {
        const place = at < 0 ? etcd!.length : at;
        return this.#differ(
          `watch ${id} of ${JSON.stringify(batch?.specs ?? "everything")}: event ${place} of ${etcd!.length}`,
          etcd![place] ?? null,
          chainfire![place] ?? null,
        );
      }
    }
    if (batch !== undefined && batch.atBoundary([...pair.etcd.events, ...pair.chainfire.events])) {
      if (raw(pair.etcd) !== raw(pair.chainfire)) {
        this.#explained.set("compaction-boundary", (this.#explained.get("compaction-boundary") ?? 0) + 1);
      }
    }
    for (const side of [pair.etcd, pair.chainfire]) {
      const last = new Map<string, number>();
      for (const { watch, revisions, fragment } of side.messages) {
        if (revisions[0] === last.get(watch)) this.#differ("a revision is cut in two messages", revisions[0]!, watch);
        if (fragment) last.delete(watch);
        else last.set(watch, revisions.at(-1)!);
      }
    }
  }

  /** What happens by itself, and what cannot be asked for by seed. */
  async #ending(everything: Pair): Promise<void> {
    const key = btoa("expiring");
    await this.#exchange({ path: "/v3/lease/grant", body: { ID: "77", TTL: "1" } });
    await this.#exchange({ path: "/v3/kv/put", body: { key, lease: "77" } });
    const gone = (watch: SideWatch) =>
      watch.events.some(({ event }) => event.type === "DELETE" && (event.kv as JsonObject).key === key);
    await everything.both("the lease ends and takes its key along", gone);
    this.#known.revision++;
    await this.#exchange({ path: "/v3/lease/timetolive", body: { ID: "77", keys: true } });
    await this.#exchange({ path: "/v3/kv/range", body: { key: btoa("\0"), range_end: btoa("\0") } });
    // Not done by etcd either, as its comparison does not hold.
    const put = { request_put: { key: btoa("b") } };
    const all = { request_delete_range: { key: btoa("a"), range_end: btoa("\0") } };
    const never = { key: btoa("none"), target: "VERSION", result: "GREATER", version: 1 };
    await this.#exchange({ path: "/v3/kv/txn", body: { compare: [never], success: [all, put] } });
    const inner = (op: object) => ({ request_txn: { success: [op] } });
    const one = { request_delete_range: { key: btoa("b") } };
    await this.#exchange({ path: "/v3/kv/txn", body: { compare: [never], success: [inner(put), inner(one)] } });
    const before = { request_range: { key: btoa("a"), revision: -2 } };
    await this.#exchange({ path: "/v3/kv/txn", body: { success: [before] } });
    for (const request of scripted) await this.#exchange(request);
    for (const path of ["/v3/kv/none", "/v3/kv/put/", "/v3/none"]) await this.#exchange({ path, body: {} });
    const [etcd, chainfire] = await Promise.all([this.#etcd, this.#chainfire].map(async (side) => {
      const { status, body } = await side.send({ path: "/v3/lease/grant", body: { TTL: 3_600 } });
      const { ID, ...rest } = body as JsonObject;
      const revoked = await side.send({ path: "/v3/lease/revoke", body: { ID: ID ?? "none" } });
      return { status, body: { ...rest, chosen: ID !== undefined && ID !== "0", revoked: revoked.status } };
    }));
    this.#check("/v3/lease/grant", "an id of the server's choice", etcd!, chainfire!);
  }
}

/** The same watches on both sides. */
class Pair implements AsyncDisposable {
  readonly etcd: SideWatch;
  readonly chainfire: SideWatch;

  constructor(etcd: SideWatch, chainfire: SideWatch) {
    this.etcd = etcd;
    this.chainfire = chainfire;
  }

  async both(what: string, holds: (watch: SideWatch) => boolean): Promise<void> {
    const end = performance.now() + arrivalMsMax;
    while (!holds(this.etcd) || !holds(this.chainfire)) {
      if (performance.now() > end) {
        const late = holds(this.etcd) ? "chainfire" : "etcd";
        throw new Error(`Cannot see at ${late} that ${what} within ${arrivalMsMax} ms`);
      }
      await systemClock.sleep(2);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.etcd[Symbol.asyncDispose]();
    await this.chainfire[Symbol.asyncDispose]();
  }
}

/** The watches of one body: what each wants, by the id that it got. */
class Batch {
  readonly specs: readonly JsonObject[];
  readonly live: { readonly watch: string; readonly spec: JsonObject; readonly from: number }[] = [];
  readonly cancelled: string[] = [];
  readonly #compactRevision: number;

  constructor(specs: readonly JsonObject[], compactRevision: number) {
    this.specs = specs;
    this.#compactRevision = compactRevision;
  }

  /** Takes the ids from the messages that say the watches are there. */
  name(control: readonly JsonObject[]): void {
    const made = control.filter((message) => message.created === true);
    this.specs.forEach((spec, i) => {
      const message = made[i]!;
      if (message.canceled === true) return;
      const watch = String(message.watch_id ?? 0);
      const asked = Number(spec.start_revision ?? 0);
      const from = asked > 0 ? asked : Number((message.header as JsonObject).revision) + 1;
      if (asked > 0 && asked < this.#compactRevision) this.cancelled.push(watch);
      else this.live.push({ watch, spec, from });
    });
  }

  fromOf(watch: string): number {
    return this.live.find((one) => one.watch === watch)?.from ?? 0;
  }

  /** True when one of the changes is at the revision of the compaction. */
  atBoundary(events: readonly { readonly revision: number }[]): boolean {
    return events.some(({ revision }) => revision === this.#compactRevision);
  }

  /** compaction-boundary: etcd 3.4 forgets deletions at the very revision of a compaction, where a watch may begin. */
  mayMiss(from: number, event: JsonObject): boolean {
    return event.type === "DELETE" && revisionOf(event) === this.#compactRevision && from <= this.#compactRevision;
  }

  /** compaction-boundary: the value before a change at that revision is compacted away at etcd. */
  boundary(event: JsonObject): JsonObject {
    if (revisionOf(event) !== this.#compactRevision) return event;
    const { prev_kv: _, ...rest } = event;
    return rest;
  }
}

const revisionOf = (event: JsonObject) => Number((event.kv as JsonObject).mod_revision);
const hex = (base64: Json | undefined) => toHex(Uint8Array.fromBase64(String(base64 ?? "")));

function wants(spec: JsonObject, from: number, event: JsonObject): boolean {
  if (revisionOf(event) < from) return false;
  const filters = (spec.filters ?? []) as readonly Json[];
  const kinds = event.type === "DELETE" ? ["NODELETE", 1] : ["NOPUT", 0];
  if (filters.some((filter) => kinds.includes(filter as string))) return false;
  const key = hex((event.kv as JsonObject).key);
  const first = hex(spec.key) || "00";
  const end = hex(spec.range_end);
  if (end === "") return key === first;
  return key >= first && (end === "00" || key < end);
}

/** The report of a comparison in words. */
export function describe(comparison: Comparison, seed: number): string {
  const { requests, answers, watches, events, explained, unexplained, ms } = comparison;
  const statuses = new Map<string, number>();
  for (const [key, count] of Object.entries(answers)) {
    const status = key.split(" ")[1]!;
    statuses.set(status, (statuses.get(status) ?? 0) + count);
  }
  const table = (map: Iterable<[string, number]>) => [...map].map(([name, count]) => `${name} ${count}`).join(", ");
  return [
    `seed ${seed}: ${requests} requests (${table([...statuses].sort())}), ${watches} watches with ${events} events, ${
      (ms / 1000).toFixed(1)
    } s`,
    ...Object.entries(answers).map(([key, count]) => `  ${key.padEnd(36)} ${count}`),
    `explained: ${table(Object.entries(explained))}`,
    `unexplained: ${unexplained.length}`,
    ...unexplained.map((d) =>
      `  after request ${d.request}: ${d.what.slice(0, 2_000)}\n    etcd      ${
        JSON.stringify(d.etcd)
      }\n    chainfire ${JSON.stringify(d.chainfire)}`
    ),
  ].join("\n");
}

/**
 * An id asked for again after a watch of the past is left out: a watch that compaction ended gives its id back at once
 * here, and a moment later at etcd, as the reference says.
 */
function distinctIds(specs: readonly JsonObject[]): JsonObject[] {
  const ofThePast = new Set<string>();
  return specs.map((spec) => {
    const id = String(spec.watch_id ?? "");
    const { watch_id: _, ...without } = spec;
    const kept = ofThePast.has(id) ? without : spec;
    if (id !== "" && spec.start_revision !== undefined) ofThePast.add(id);
    return kept;
  });
}
