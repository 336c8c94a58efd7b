import process from "node:process";

/** Label values by label name; every label of the metric, no other. */
export type Labels = Readonly<Record<string, string>>;

const namePattern = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/**
 * Series one metric may have. A label with unbounded values (ids, paths) would eat memory; past this bound new
 * label sets are counted together under the value "other".
 */
export const metricSeriesMax = 2_000;

/** Seconds: from a cache hit to a call that waits for a machine. */
export const latencyBucketsSeconds: readonly number[] = [
  0.000_1,
  0.000_25,
  0.000_5,
  0.001,
  0.002_5,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  10,
  60,
];

function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function labelText(names: readonly string[], values: readonly string[], extra = ""): string {
  const pairs = names.map((name, i) => `${name}="${escapeLabel(values[i]!)}"`);
  if (extra !== "") pairs.push(extra);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

abstract class Metric<S> {
  readonly series = new Map<string, { readonly values: readonly string[]; readonly state: S }>();
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly string[];
  abstract readonly type: "counter" | "gauge" | "histogram";

  constructor(name: string, help: string, labelNames: readonly string[]) {
    for (const text of [name, ...labelNames]) {
      if (!namePattern.test(text)) throw new Error(`Cannot name a metric or label ${JSON.stringify(text)}`);
    }
    this.name = name;
    this.help = help;
    this.labelNames = labelNames;
  }

  protected abstract fresh(): S;
  abstract lines(): string[];

  protected at(labels: Labels): S {
    let values = this.labelNames.map((name) => labels[name] ?? "");
    let key = values.join("\u0000");
    let found = this.series.get(key);
    if (found === undefined && this.series.size >= metricSeriesMax) {
      values = this.labelNames.map(() => "other");
      key = values.join("\u0000");
      found = this.series.get(key);
    }
    if (found === undefined) this.series.set(key, found = { values, state: this.fresh() });
    return found.state;
  }
}

/** A count that only grows. */
export class Counter extends Metric<{ value: number }> {
  readonly type = "counter";
  protected fresh() {
    return { value: 0 };
  }
  inc(labels: Labels = {}, n = 1): void {
    this.at(labels).value += n;
  }
  value(labels: Labels = {}): number {
    return this.at(labels).value;
  }
  lines(): string[] {
    return [...this.series.values()].map((s) => `${this.name}${labelText(this.labelNames, s.values)} ${s.state.value}`);
  }
}

/** A value that goes up and down. */
export class Gauge extends Metric<{ value: number }> {
  readonly type = "gauge";
  protected fresh() {
    return { value: 0 };
  }
  set(value: number, labels: Labels = {}): void {
    this.at(labels).value = value;
  }
  add(delta: number, labels: Labels = {}): void {
    this.at(labels).value += delta;
  }
  value(labels: Labels = {}): number {
    return this.at(labels).value;
  }
  lines(): string[] {
    return [...this.series.values()].map((s) => `${this.name}${labelText(this.labelNames, s.values)} ${s.state.value}`);
  }
}

/** One series of a histogram, for hot paths that look its labels up once. */
export interface HistogramSeries {
  observe(value: number): void;
}

class Distribution implements HistogramSeries {
  readonly counts: Float64Array;
  readonly #bounds: readonly number[];
  sum = 0;
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }
  observe(value: number): void {
    const bounds = this.#bounds;
    let i = 0;
    while (i < bounds.length && value > bounds[i]!) i++;
    this.counts[i]!++;
    this.sum += value;
  }
}

/** How values are distributed over fixed buckets; in base units (seconds, bytes). */
export class Histogram extends Metric<Distribution> {
  readonly type = "histogram";
  readonly #bounds: readonly number[];
  constructor(name: string, help: string, labelNames: readonly string[], bounds: readonly number[]) {
    super(name, help, labelNames);
    for (let i = 1; i < bounds.length; i++) {
      if (bounds[i]! <= bounds[i - 1]!) throw new Error(`Cannot use buckets of ${name}: wanted ascending bounds`);
    }
    this.#bounds = bounds;
  }
  protected fresh() {
    return new Distribution(this.#bounds);
  }
  observe(value: number, labels: Labels = {}): void {
    this.at(labels).observe(value);
  }
  /** The series of these labels; keep it where the labels are fixed. */
  with(labels: Labels): HistogramSeries {
    return this.at(labels);
  }
  count(labels: Labels = {}): number {
    return this.at(labels).counts.reduce((a, b) => a + b, 0);
  }
  lines(): string[] {
    const out: string[] = [];
    for (const { values, state } of this.series.values()) {
      let total = 0;
      this.#bounds.forEach((bound, i) => {
        total += state.counts[i]!;
        out.push(`${this.name}_bucket${labelText(this.labelNames, values, `le="${bound}"`)} ${total}`);
      });
      total += state.counts[this.#bounds.length]!;
      out.push(`${this.name}_bucket${labelText(this.labelNames, values, 'le="+Inf"')} ${total}`);
      out.push(`${this.name}_sum${labelText(this.labelNames, values)} ${state.sum}`);
      out.push(`${this.name}_count${labelText(this.labelNames, values)} ${total}`);
    }
    return out;
  }
}

const cpuSecondsName = "process_cpu_seconds_total";

/** A component's metrics. Asking twice for the same name answers the same metric. */
export class Registry {
  readonly #metrics = new Map<string, Counter | Gauge | Histogram>();
  readonly #collectors: (() => void)[] = [];

  counter(name: string, help: string, labels: readonly string[] = []): Counter {
    return this.#keep(name, Counter, labels, () => new Counter(name, help, labels));
  }
  gauge(name: string, help: string, labels: readonly string[] = []): Gauge {
    return this.#keep(name, Gauge, labels, () => new Gauge(name, help, labels));
  }
  histogram(
    name: string,
    help: string,
    labels: readonly string[] = [],
    buckets: readonly number[] = latencyBucketsSeconds,
  ): Histogram {
    return this.#keep(name, Histogram, labels, () => new Histogram(name, help, labels, buckets));
  }

  /** Runs `collect` before every exposition, to set gauges that are read rather than counted. */
  onExpose(collect: () => void): void {
    this.#collectors.push(collect);
  }

  /** `<component>` and `<version>` as the constant metric every dashboard joins on, and what the process uses. */
  buildInfo(component: string, version: string): void {
    this.gauge("uc_build_info", "Constant 1, labelled with what runs", ["component", "version", "deno"])
      .set(1, { component, version, deno: Deno.version.deno });
    if (!this.#metrics.has(cpuSecondsName)) this.#processInfo();
  }

  /** By the names that every Prometheus client library uses. */
  #processInfo(): void {
    const cpu = this.counter(cpuSecondsName, "Processor time of the process, user and system");
    const resident = this.gauge("process_resident_memory_bytes", "Memory of the process that is in RAM");
    this.gauge("process_start_time_seconds", "When the process began, since the epoch")
      .set(performance.timeOrigin / 1_000);
    this.onExpose(() => {
      const { user, system } = process.cpuUsage();
      cpu.inc({}, (user + system) / 1_000_000 - cpu.value());
      resident.set(Deno.memoryUsage().rss);
    });
  }

  /** Prometheus text format 0.0.4. */
  expose(): string {
    for (const collect of this.#collectors) collect();
    const out: string[] = [];
    for (const metric of this.#metrics.values()) {
      const help = metric.help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
      out.push(`# HELP ${metric.name} ${help}`, `# TYPE ${metric.name} ${metric.type}`, ...metric.lines());
    }
    return out.join("\n") + "\n";
  }

  #keep<M extends Counter | Gauge | Histogram>(
    name: string,
    kind: abstract new (...args: never[]) => M,
    labels: readonly string[],
    make: () => M,
  ): M {
    const found = this.#metrics.get(name);
    if (found === undefined) {
      const made = make();
      this.#metrics.set(name, made);
      return made;
    }
    if (!(found instanceof kind) || found.labelNames.join() !== labels.join()) {
      throw new Error(`Cannot register ${name} again with another type or other labels`);
    }
    return found;
  }
}
