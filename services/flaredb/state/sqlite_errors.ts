/** SQLite's result codes that say that the disk, the memory or the process is at fault and not the statement. */
const fatalCodes: ReadonlySet<number> = new Set([
  2, // INTERNAL
  5, // BUSY
  6, // LOCKED
  7, // NOMEM
  8, // READONLY
  10, // IOERR
  11, // CORRUPT
  13, // FULL
  14, // CANTOPEN
  15, // PROTOCOL
  21, // MISUSE
  26, // NOTADB
]);

/** A failure as node:sqlite throws it. */
export interface SqliteError extends Error {
  readonly code?: string;
  readonly errcode?: number;
  readonly errstr?: string;
}

/** True when the statement or its values are at fault, and neither the disk nor the process. */
export function isStatementError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, errcode } = error as SqliteError;
  return code === "ERR_SQLITE_ERROR" && (errcode === undefined || !fatalCodes.has(errcode & 0xff));
}
