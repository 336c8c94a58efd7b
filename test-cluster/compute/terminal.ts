import { until } from "./until.ts";

const uc = new URL("../../cli/main.ts", import.meta.url).pathname;
const patienceMs = 60_000;

/** `uc` on a terminal of its own (`script` makes it), typed to and read as a person would. */
export class Terminal implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #keyboard: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  #said = "";
  /** Where `sees` looks from. */
  #from = 0;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#keyboard = child.stdin.getWriter();
    this.#reading = this.#read();
  }

  /** Starts `uc` with these words. */
  static open(words: readonly string[], env: Readonly<Record<string, string>>): Terminal {
    const command = [Deno.execPath(), "run", "-A", "--no-check", uc, ...words].map((w) => `'${w}'`).join(" ");
    const child = new Deno.Command("script", {
      args: ["-qefc", command, "/dev/null"],
      env: { ...env, TERM: "vt100" },
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    return new Terminal(child);
  }

  /** Everything it has shown. */
  get seen(): string {
    return this.#said;
  }

  async type(keys: string): Promise<void> {
    this.#from = this.#said.length;
    await this.#keyboard.write(new TextEncoder().encode(keys));
  }

  /** Waits for something after what was typed last. */
  async sees(pattern: RegExp): Promise<void> {
    try {
      await until(String(pattern), patienceMs, () => pattern.test(this.#said.slice(this.#from)));
    } catch (cause) {
      throw new Error(`The terminal does not show ${pattern}, it ends ${JSON.stringify(this.#said.slice(-300))}`, {
        cause,
      });
    }
  }

  async ended(): Promise<Deno.CommandStatus> {
    const status = await this.#child.status;
    await this.#reading;
    return status;
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of this.#child.stdout) {
      this.#said += decoder.decode(bytes, { stream: true }).replaceAll("\x1b[6n", "");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGTERM");
    } catch {
      // It has ended.
    }
    await this.#keyboard.close().catch(() => {});
    await this.ended();
  }
}
