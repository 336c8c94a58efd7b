import { fault } from "@ultracloud/base";
import { refreshLatest, stampOf } from "../../harness/artifacts.ts";

/** What stands in `status.env`; one line each, for shells and programs. */
export type Status = Readonly<Record<string, string | number | boolean>>;

/** The directory of one run. Whatever is written goes through it, so that no secret gets into a file. */
export class RunDir {
  readonly dir: string;
  readonly id: string;
  readonly #secrets = new Set<string>();
  #status: Record<string, string | number | boolean> = {};

  private constructor(dir: string) {
    this.dir = dir;
    this.id = dir.slice(dir.lastIndexOf("/") + 1);
  }

  /** A new one below `<work root>/hardware-smoke`; `latest` points at it from now on. */
  static async make(workRoot: string, now: Date): Promise<RunDir> {
    const root = `${workRoot}/hardware-smoke`;
    await Deno.mkdir(root, { recursive: true });
    const stamp = stampOf(now);
    for (let n = 0;; n++) {
      const dir = `${root}/${stamp}${n === 0 ? "" : `-${n}`}`;
      try {
        await Deno.mkdir(dir);
      } catch (error) {
        // Another run of the same second.
        if (error instanceof Deno.errors.AlreadyExists && n < 100) continue;
        throw error;
      }
      await refreshLatest(dir);
      return new RunDir(dir);
    }
  }

  /** One that is there: `latest`, or a name. */
  static async open(workRoot: string, name: string): Promise<RunDir> {
    if (!/^[A-Za-z0-9-]+$/.test(name)) {
      throw fault("invalid_argument", "usage", `Cannot open the run ${name}: wanted the name of its directory`);
    }
    const path = `${workRoot}/hardware-smoke/${name}`;
    try {
      const run = new RunDir(await Deno.realPath(path));
      run.#status = parseStatus(await Deno.readTextFile(`${run.dir}/status.env`));
      return run;
    } catch (cause) {
      if (!(cause instanceof Deno.errors.NotFound)) throw cause;
      throw fault("not_found", "no_run", `Cannot find a run at ${path}: wanted preflight or run first`, { cause });
    }
  }

  /** From now on no file of this run holds the text. */
  hide(secret: string): void {
    if (secret.length >= 4) this.#secrets.add(secret);
  }

  /** A text without what is hidden. */
  masked(text: string): string {
    let masked = text;
    for (const secret of this.#secrets) {
      // In JSON, too, where quotes and backslashes of a password are written differently.
      for (const form of new Set([secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)])) {
        masked = masked.replaceAll(form, "<secret>");
      }
    }
    return masked;
  }

  async write(name: string, text: string): Promise<void> {
    const file = `${this.dir}/${name}`;
    await Deno.writeTextFile(`${file}.new`, this.masked(text.endsWith("\n") ? text : `${text}\n`));
    await Deno.rename(`${file}.new`, file);
  }

  async append(name: string, line: string): Promise<void> {
    await Deno.writeTextFile(`${this.dir}/${name}`, `${this.masked(line)}\n`, { append: true });
  }

  async read(name: string): Promise<string | undefined> {
    return await Deno.readTextFile(`${this.dir}/${name}`).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    });
  }

  get status(): Status {
    return this.#status;
  }

  /** Changes lines of `status.env`, in one step, so that a reader sees the old or the new. */
  async setStatus(changes: Status): Promise<void> {
    this.#status = { ...this.#status, ...changes };
    const lines = Object.entries(this.#status).map(([name, value]) => `${name}=${quote(String(value))}`);
    await this.write("status.env", lines.join("\n"));
  }
}

/** For `source` of a shell: plain words as they are, everything else in single quotes. */
function quote(value: string): string {
  const line = value.replaceAll(/\s+/g, " ");
  return /^[A-Za-z0-9_./:@%+,=-]*$/.test(line) ? line : `'${line.replaceAll("'", `'\\''`)}'`;
}

/** The other direction of `quote`, for what this program wrote. */
export function parseStatus(text: string): Record<string, string> {
  const status: Record<string, string> = {};
  for (const line of text.split("\n")) {
    const equals = line.indexOf("=");
    if (equals < 1) continue;
    const value = line.slice(equals + 1);
    const quoted = /^'(.*)'$/.exec(value);
    status[line.slice(0, equals)] = quoted === null ? value : quoted[1]!.replaceAll(`'\\''`, "'");
  }
  return status;
}
