import { fault, systemClock } from "@ultracloud/base";
import { type Column, humanAge, humanBytes } from "../frame/columns.ts";
import { command, parseDuration, parseInteger } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { endpointsOf } from "./system.ts";
import { readMetrics } from "./_metrics_text.ts";

const intervalMsMin = 200;
const intervalMsMax = 3_600_000;
const requestMsMax = 2_000;
/** Moves the cursor to the upper left corner and clears what follows. */
const clearScreen = "\x1b[H\x1b[J";

/** What a component had used when it was asked. */
interface Sample {
  readonly atMs: number;
  readonly startMs: number;
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  readonly calls: number;
  readonly failed: number;
  readonly inFlight: number;
  readonly streams: number;
}

/** What a component uses now; undefined values: it did not answer. */
interface Load {
  readonly component: string;
  /** Of one processor, in percent. */
  readonly cpuPercent: number | undefined;
  readonly residentBytes: number | undefined;
  readonly callsPerSecond: number | undefined;
  readonly failedPerSecond: number | undefined;
  readonly inFlight: number | undefined;
  readonly streams: number | undefined;
  readonly startMs: number | undefined;
}

const shown = (value: number | undefined, text: (value: number) => string): string =>
  value === undefined ? "-" : text(value);
const columns: readonly Column<Load>[] = [
  { name: "component", get: (l) => l.component },
  { name: "cpu", get: (l) => shown(l.cpuPercent, (v) => `${v.toFixed(1)}%`), order: (l) => l.cpuPercent ?? -1 },
  { name: "memory", get: (l) => shown(l.residentBytes, humanBytes), order: (l) => l.residentBytes ?? -1 },
  { name: "calls/s", get: (l) => shown(l.callsPerSecond, (v) => v.toFixed(1)), order: (l) => l.callsPerSecond ?? -1 },
  {
    name: "failed/s",
    get: (l) => shown(l.failedPerSecond, (v) => v.toFixed(1)),
    order: (l) => l.failedPerSecond ?? -1,
  },
  { name: "in_flight", get: (l) => shown(l.inFlight, String), order: (l) => l.inFlight ?? -1 },
  { name: "streams", get: (l) => shown(l.streams, String), order: (l) => l.streams ?? -1 },
  { name: "up", get: (l) => shown(l.startMs, (ms) => humanAge(ms, Date.now())), order: (l) => -(l.startMs ?? 0) },
];

/** One look at a component's metrics; undefined when it does not answer. */
async function sample(session: Session, endpoint: string): Promise<Sample | undefined> {
  const { signal } = session.io;
  const client = session.http;
  try {
    const response = await fetch(`${endpoint}/metrics`, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(requestMsMax)]),
      ...(client === undefined ? {} : { client }),
    });
    const metrics = readMetrics(await response.text());
    const sum = (name: string, keep: (labels: Readonly<Record<string, string>>) => boolean = () => true) =>
      (metrics.get(name) ?? []).filter((s) => keep(s.labels)).reduce((total, s) => total + s.value, 0);
    const calls = "rpc_server_duration_seconds_count";
    return {
      atMs: performance.now(),
      startMs: sum("process_start_time_seconds") * 1_000,
      cpuSeconds: sum("process_cpu_seconds_total"),
      residentBytes: sum("process_resident_memory_bytes"),
      calls: sum(calls),
      failed: sum(calls, ({ code }) => code !== "ok"),
      inFlight: sum("rpc_server_in_flight", ({ kind }) => kind === "unary"),
      streams: sum("rpc_server_in_flight", ({ kind }) => kind === "stream"),
    };
  } catch (error) {
    if (signal.aborted) throw error;
    return undefined;
  }
}

/** Use between two looks; one that started anew in between has none yet. */
function loadOf(component: string, before: Sample | undefined, now: Sample | undefined): Load {
  const same = before !== undefined && now !== undefined && before.startMs === now.startMs;
  const seconds = same ? (now.atMs - before.atMs) / 1_000 : NaN;
  const rate = (of: (s: Sample) => number) => same ? (of(now) - of(before)) / seconds : undefined;
  const cpu = rate((s) => s.cpuSeconds);
  return {
    component,
    cpuPercent: cpu === undefined ? undefined : cpu * 100,
    residentBytes: now?.residentBytes,
    callsPerSecond: rate((s) => s.calls),
    failedPerSecond: rate((s) => s.failed),
    inFlight: now?.inFlight,
    streams: now?.streams,
    startMs: now?.startMs,
  };
}

export const top = command<{ interval: number; count?: number }, []>({
  brief: "Show what each component uses and serves, again and again at a terminal",
  details: "Between two looks: processor time, calls and failed calls. Ctrl-C ends it; --count does so by itself.",
  flags: {
    interval: { kind: "parsed", parse: parseDuration, default: "2s", brief: "Time between two looks" },
    count: {
      kind: "parsed",
      parse: parseInteger,
      optional: true,
      brief: "How many tables; endless at a terminal and 1 elsewhere unless given",
    },
  },
  async run({ session, items, io, flags: common }, { interval, count }) {
    if (interval < intervalMsMin || interval > intervalMsMax) {
      throw fault("invalid_argument", "bad_interval", `Cannot look every ${interval} ms: wanted 200ms to 1h`);
    }
    if (count !== undefined && count < 1) {
      throw fault("invalid_argument", "bad_count", `Cannot show ${count} tables: wanted at least 1`);
    }
    const endpoints = endpointsOf(session);
    const look = () =>
      Promise.all(endpoints.map(async ([component, url]) => ({ component, seen: await sample(session, url) })));
    const redraw = Deno.stdout.isTerminal() && common.output === "table" && count !== 1;
    const tables = count ?? (redraw ? Infinity : 1);
    for (let before = await look(), shown = 0; shown < tables; shown++) {
      if (before.every(({ seen }) => seen === undefined)) {
        throw fault("unavailable", "connect_failed", "Cannot show anything as no component answers");
      }
      await systemClock.sleep(interval, io.signal);
      const now = await look();
      const loads = now.map(({ component, seen }, i) => loadOf(component, before[i]!.seen, seen));
      if (redraw) io.out(clearScreen);
      await items(loads.map((value) => ({ value, json: value, name: value.component })), columns);
      before = now;
    }
  },
});
