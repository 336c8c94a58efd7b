/** Something the harness made that outlives a kill -9 of it. */
export type Resource =
  | { readonly kind: "namespace"; readonly name: string }
  | { readonly kind: "mount"; readonly path: string }
  | { readonly kind: "dir"; readonly path: string };

/**
 * What the harness has made, on disk before it is made. Processes need no entry: each runs inside a namespace of the
 * journal and is found there.
 */
export class Journal {
  readonly #file: string;
  readonly #known: Set<string>;

  constructor(file: string) {
    this.#file = file;
    this.#known = new Set(readJournal(file).map((resource) => JSON.stringify(resource)));
  }

  /** Call it before making the resource; recording it again is no change. */
  record(resource: Resource): void {
    const line = JSON.stringify(resource);
    if (this.#known.has(line)) return;
    Deno.mkdirSync(this.#file.slice(0, this.#file.lastIndexOf("/")), { recursive: true });
    using file = Deno.openSync(this.#file, { create: true, append: true });
    file.writeSync(new TextEncoder().encode(line + "\n"));
    file.syncDataSync();
    this.#known.add(line);
  }
}

/** Everything recorded; a torn last line is of a resource that was never made. */
export function readJournal(file: string): Resource[] {
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return text.slice(0, text.lastIndexOf("\n") + 1).split("\n").filter((line) => line !== "").map((line) =>
    JSON.parse(line) as Resource
  );
}
