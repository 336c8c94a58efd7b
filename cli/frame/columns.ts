/** One column of a table: `get` gives the human value, `wide` keeps it out of the narrow table. */
export interface Column<T> {
  readonly name: string;
  readonly get: (item: T) => string;
  /** What to sort by where the human value would sort wrongly. */
  readonly order?: (item: T) => number;
  readonly wide?: boolean;
}

/** 268435456 -> "256 MiB". Exact multiples stay whole. */
export function humanBytes(bytes: number | bigint): string {
  let value = Number(bytes);
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024 || unit === "TiB") return `${Number.isInteger(value) ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value}`;
}

/** Age of a moment: "12s", "5m", "3h", "2d". */
export function humanAge(ms: number, nowMs: number): string {
  const s = Math.max(0, Math.floor((nowMs - ms) / 1000));
  if (s < 120) return `${s}s`;
  if (s < 7200) return `${Math.floor(s / 60)}m`;
  if (s < 172_800) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}

/** VM_STATE_RUNNING -> "running": the enum's value without its type's prefix. */
export function enumName(values: Readonly<Record<number, string>>, value: number): string {
  return (values[value] ?? String(value)).toLowerCase().replaceAll("_", "-");
}
