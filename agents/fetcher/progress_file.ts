import { fault } from "@ultracloud/base";

/** How far a hook is, in a file: the index up to which its receiver has accepted everything. */
export class ProgressFile {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Undefined for a hook that is new here. */
  read(): bigint | undefined {
    let text: string;
    try {
      text = Deno.readTextFileSync(this.#path).trim();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
    if (/^\d{1,19}$/.test(text)) return BigInt(text);
    // Beginning anew would leave changes out without a word.
    throw fault(
      "data_loss",
      "progress_unreadable",
      `Cannot read ${this.#path} as an index; remove it to begin with what changes from now on`,
    );
  }

  /** On disk, whole, when it returns. */
  write(index: bigint): void {
    const next = `${this.#path}.new`;
    {
      using file = Deno.openSync(next, {
        write: true,
        create: true,
        truncate: true,
        mode: 0o600,
      });
      file.writeSync(new TextEncoder().encode(`${index}\n`));
      file.syncDataSync();
    }
    Deno.renameSync(next, this.#path);
  }
}
