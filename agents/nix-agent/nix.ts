import { type Fault, fault } from "@ultracloud/base";
import { type Ended, lastWords, runProgram } from "./programs.ts";

export interface NixOptions {
  /** Directory that is the root of the store; empty: the host itself. */
  readonly root: string;
  /** The profile, as a path below the root. */
  readonly profile: string;
  readonly nixConfDir: string | undefined;
  /** Home of Nix's own caches. */
  readonly home: string;
}

export interface Cache {
  readonly url: string;
  readonly trustedKeys: readonly string[];
}

export interface Generation {
  readonly number: number;
  readonly system: string;
  readonly current: boolean;
}

/** What Nix says again for an hour would hide that a closure has come, or gone. */
const always = [
  ["narinfo-cache-negative-ttl", "0"],
  ["narinfo-cache-positive-ttl", "0"],
  ["connect-timeout", "10"],
  ["download-attempts", "3"],
  ["substituters", ""],
  ["extra-experimental-features", "nix-command"],
  ["require-sigs", "true"],
];

/** The Nix of this host: what it can say about a closure, and the profile of the system. */
export class Nix {
  readonly #o: NixOptions;

  constructor(options: NixOptions) {
    this.#o = options;
  }

  /** Where a path of the store lies on this host. */
  at(storePath: string): string {
    return `${this.#o.root}${storePath}`;
  }

  get profilePath(): string {
    return `${this.#o.root}${this.#o.profile}`;
  }

  /** Environment that every Nix program of the agent and of a trial has. */
  get environment(): Record<string, string> {
    return { HOME: this.#o.home, ...(this.#o.nixConfDir === undefined ? {} : { NIX_CONF_DIR: this.#o.nixConfDir }) };
  }

  /** Words of a `nix-env` on the profile, without the operation. */
  get profileCommand(): string[] {
    return ["nix-env", ...this.#storeArgs(), "-p", this.profilePath];
  }

  #storeArgs(): string[] {
    return this.#o.root === "" ? [] : ["--store", this.#store];
  }

  get #store(): string {
    return this.#o.root === "" ? "auto" : `local?root=${this.#o.root}`;
  }

  async #run(args: readonly string[], keys: readonly string[], signal?: AbortSignal): Promise<Ended> {
    const options = [...always, ["trusted-public-keys", keys.join(" ")]].flatMap(([name, value]) => [
      "--option",
      name!,
      value!,
    ]);
    return await runProgram("nix", [...args, ...options], {
      env: this.environment,
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** What Nix calls itself, or why there is none. */
  async version(): Promise<{ readonly there: boolean; readonly text: string }> {
    try {
      const ended = await runProgram("nix", ["--version"], { env: this.environment });
      return { there: ended.code === 0, text: lastWords(ended) };
    } catch (error) {
      return { there: false, text: error instanceof Error ? error.message : String(error) };
    }
  }

  /** Bytes of the whole closure in the cache; a fault says whether the cache or the closure is missing. */
  async closureBytes(cache: Cache, system: string, signal: AbortSignal): Promise<number> {
    const ping = await this.#run(["store", "info", "--store", cache.url], [], signal);
    if (ping.code !== 0) {
      throw fault("unavailable", "cache_unreachable", `Cannot reach the cache ${cache.url}: ${lastWords(ping)}`);
    }
    const info = await this.#run(["path-info", "--store", cache.url, "--closure-size", system], [], signal);
    if (info.code !== 0) throw missing(cache, system, info);
    const size = Number(/\s(\d+)\s*$/.exec(info.stdout.trimEnd())?.[1]);
    if (Number.isSafeInteger(size)) return size;
    throw fault(
      "internal",
      "nix_unreadable",
      `Cannot read what Nix says about ${system}: ${info.stdout.slice(0, 200)}`,
    );
  }

  /** Refuses a closure of which a path lacks a signature by a trusted key. Nothing is copied. */
  async checkSignatures(cache: Cache, system: string, signal: AbortSignal): Promise<void> {
    const args = [
      "store",
      "verify",
      "--store",
      cache.url,
      "--recursive",
      "--no-contents",
      "--sigs-needed",
      "1",
      system,
    ];
    const ended = await this.#run(args, cache.trustedKeys, signal);
    if (ended.code !== 0) throw refused(system, ended);
  }

  /** Copies the closure into the store of this host; Nix checks hash and signature of each path as it comes. */
  async copy(cache: Cache, system: string, signal: AbortSignal): Promise<void> {
    const ended = await this.#run(
      ["copy", "--from", cache.url, "--to", this.#store, system],
      cache.trustedKeys,
      signal,
    );
    if (ended.code !== 0) {
      throw fault("failed_precondition", "copy_failed", `Cannot copy ${system} from ${cache.url}: ${lastWords(ended)}`);
    }
    // Also for paths that were there already: they may have come by another way.
    const args = ["store", "verify", "--store", this.#store, "--recursive", "--sigs-needed", "1", system];
    const verified = await this.#run(args, cache.trustedKeys, signal);
    if (verified.code !== 0) throw refused(system, verified);
  }

  async generations(): Promise<Generation[]> {
    const [program, ...args] = [...this.profileCommand, "--list-generations"];
    const listed = await runProgram(program!, args, { env: this.environment });
    if (listed.code !== 0) {
      throw fault("failed_precondition", "profile_unreadable", `Cannot read ${this.profilePath}: ${lastWords(listed)}`);
    }
    const found: Generation[] = [];
    for (const line of listed.stdout.split("\n")) {
      const match = /^\s*(\d+)\s.*?(\(current\))?\s*$/.exec(line);
      if (match === null) continue;
      const link = await runProgram("readlink", [`${this.profilePath}-${match[1]}-link`]);
      found.push({ number: Number(match[1]), system: link.stdout.trim(), current: match[2] !== undefined });
    }
    return found;
  }

  /** The generation that is in force; undefined when the profile has none. */
  async current(): Promise<Generation | undefined> {
    return (await this.generations()).find(({ current }) => current);
  }

  /** Makes the system a new generation of the profile. It is not switched to. */
  async setProfile(system: string): Promise<void> {
    const [program, ...args] = [...this.profileCommand, "--set", system];
    const ended = await runProgram(program!, args, { env: this.environment });
    if (ended.code === 0) return;
    throw fault("failed_precondition", "profile_unset", `Cannot set the profile to ${system}: ${lastWords(ended)}`);
  }

  /** Bytes free where the store is. */
  async freeBytes(): Promise<number> {
    const ended = await runProgram("df", ["--output=avail", "-B1", this.at("/nix/store")]);
    const free = Number(ended.stdout.trim().split("\n").at(-1));
    if (ended.code === 0 && Number.isSafeInteger(free)) return free;
    throw fault("failed_precondition", "space_unknown", `Cannot tell the free space of the store: ${lastWords(ended)}`);
  }
}

function missing(cache: Cache, system: string, ended: Ended): Fault {
  return fault(
    "not_found",
    "closure_missing",
    `Cannot find the whole of ${system} in ${cache.url}: ${lastWords(ended)}`,
  );
}

function refused(system: string, ended: Ended): Fault {
  return fault(
    "permission_denied",
    "closure_untrusted",
    `Cannot trust ${system}: a path lacks a signature by a trusted key, or is not what was signed: ${lastWords(ended)}`,
  );
}
