import { isAlive, type ProcessIdentity, signalProcess, spawnDetached } from "@ultracloud/launch";
import type { ComponentSignal, NodeProcess, StartSpec } from "./substrate.ts";

const suffix = ".pid";

/** The components started on one node, each with a file that names its process: whoever comes later finds them. */
export class ComponentTable {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Starts a component with `prefix` before its command; nothing happens when it runs. */
  async start(spec: StartSpec, prefix: readonly string[] = []): Promise<void> {
    const { component, logFile, env } = spec;
    if (this.#identity(component) !== undefined) return;
    for (const dir of [this.#dir, ...spec.dirs]) await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    const child = spawnDetached({ name: component, command: [...prefix, ...spec.argv], logFile, env });
    child.unref();
    const file = this.#file(component);
    await Deno.writeTextFile(`${file}.new`, JSON.stringify(child.identity));
    await Deno.rename(`${file}.new`, file);
  }

  /** False when it does not run. */
  signal(component: string, signal: ComponentSignal): boolean {
    const identity = this.#identity(component);
    return identity !== undefined && signalProcess(identity, signal);
  }

  /** Those that run now. */
  list(): NodeProcess[] {
    return this.#names().flatMap((component) => {
      const identity = this.#identity(component);
      return identity === undefined ? [] : [{ component, pid: identity.pid }];
    });
  }

  #names(): string[] {
    try {
      const files = [...Deno.readDirSync(this.#dir)].map(({ name }) => name).filter((name) => name.endsWith(suffix));
      return files.map((name) => name.slice(0, -suffix.length)).sort();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }

  #file(component: string): string {
    return `${this.#dir}/${component}${suffix}`;
  }

  #identity(component: string): ProcessIdentity | undefined {
    try {
      const identity = JSON.parse(Deno.readTextFileSync(this.#file(component))) as ProcessIdentity;
      return isAlive(identity) ? identity : undefined;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  }
}
