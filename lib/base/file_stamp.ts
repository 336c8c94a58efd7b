/**
 * What tells one state of a file from another without reading it: its time, its size and which file it is. The time
 * alone does not: the clock of a file system stands still for milliseconds, so two writes of one tick have the same.
 * A file that is replaced by a rename, as files that others read are, is another file.
 */
export function fileStamp(info: Pick<Deno.FileInfo, "mtime" | "size" | "ino">): string {
  return `${info.mtime?.getTime() ?? 0} ${info.size} ${info.ino ?? 0}`;
}

/** The stamp of several files that are changed together; a file that is not there is a NotFound error. */
export function fileStamps(paths: readonly string[]): string {
  return paths.map((path) => fileStamp(Deno.statSync(path))).join();
}
