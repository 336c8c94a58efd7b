/** One series of a metric. */
export interface Series {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const linePattern = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const labelPattern = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const escapes: Readonly<Record<string, string>> = { n: "\n" };

/** The series of every metric in Prometheus text format; lines that are none are left out. */
export function readMetrics(text: string): Map<string, Series[]> {
  const metrics = new Map<string, Series[]>();
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) continue;
    const [, name, inner, number] = linePattern.exec(line) ?? [];
    if (name === undefined) continue;
    const labels: Record<string, string> = {};
    for (const [, key, value] of (inner ?? "").matchAll(labelPattern)) {
      labels[key!] = value!.replace(/\\(.)/g, (_, char: string) => escapes[char] ?? char);
    }
    const series = metrics.get(name);
    const one = { labels, value: Number(number) };
    if (series) series.push(one);
    else metrics.set(name, [one]);
  }
  return metrics;
}
