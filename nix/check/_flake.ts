import { openNixBox, type TestBody, testUnless, workspaceRoot } from "@ultracloud/testing";

/**
 * The project's flake, unmodified, evaluated with the stub of nixpkgs in `nix/stub`. Nothing of nixpkgs is here: what
 * holds is said to be stub-evaluated, never built.
 */

const box = await openNixBox();
/** Why nothing of Nix can be tried here; undefined when it can. */
export const whyNoNix = typeof box === "string" ? box : undefined;

/** What an evaluation reads: the flake, manifests, schemas and the lock. The rest would only be copied and hashed. */
const read = [
  "flake.nix",
  "flake.lock",
  "deno.json",
  "deno.lock",
  "nix",
  "services/*/component.json",
  "agents/*/component.json",
  "docs/reference/*.schema.json",
  "cli/quickstart/profiles.json",
];

/** Whose functions the stub is made with: the project's own few, or nixpkgs' where a path to them was given. */
export interface Library {
  readonly name: string;
  readonly path?: string;
  /** No stand-ins at all: what the lock files name. Only what fetches nothing can be asked then. */
  readonly locked?: boolean;
}

const libraryPath = Deno.env.get("UC_NIXPKGS_LIB");

/** Registers a test for the project's own library and for nixpkgs' own; the latter is a printed, counted skip without it. */
export function testWithLibraries(name: string, fn: (library: Library) => ReturnType<TestBody>): void {
  testUnless(name, whyNoNix, () => fn({ name: "the stub's own" }));
  const why = libraryPath === undefined ? "UC_NIXPKGS_LIB names no checkout of nixpkgs.lib" : whyNoNix;
  testUnless(`${name}, on nixpkgs' own lib`, why, () => fn({ name: "nixpkgs.lib", path: libraryPath! }));
}

/** Everything of this process: copies of the flake, and one store for what Nix copies in turn. */
const temporary = whyNoNix === undefined ? await Deno.makeTempDir({ prefix: "nix-check-" }) : "";
if (temporary !== "") addEventListener("unload", () => Deno.removeSync(temporary, { recursive: true }));

/** A copy of the flake that may be changed. */
export interface Flake extends Disposable {
  readonly dir: string;
  /** The value of an attribute after `apply`, an expression of a function. */
  eval<T>(attribute: string, apply: string): Promise<T>;
  /** Builds it in Nix's sandbox; answers the contents of the file that it is. */
  buildText(attribute: string): Promise<string>;
  /** `nix flake SUBCOMMAND`. */
  flake(subcommand: string, ...args: string[]): Promise<string>;
  /** Changes a text of the copy: a planted mistake. */
  edit(path: string, change: (text: string) => string): Promise<void>;
}

/** Copies what git would show to Nix: tracked files and new ones, not ignored ones. */
async function snapshot(dir: string, paths: readonly string[]): Promise<void> {
  const git = new Deno.Command("git", {
    args: ["ls-files", "-co", "--exclude-standard", "-z", "--", ...paths],
    cwd: workspaceRoot,
  });
  const { success, stdout, stderr } = await git.output();
  if (!success) throw new Error(`Cannot list the flake: ${new TextDecoder().decode(stderr)}`);
  const made = new Set<string>();
  for (const path of new TextDecoder().decode(stdout).split("\0")) {
    if (path === "") continue;
    const folder = `${dir}/${path.slice(0, path.lastIndexOf("/") + 1)}`;
    if (!made.has(folder)) await Deno.mkdir(folder, { recursive: true });
    made.add(folder);
    // A file that was deleted and not yet committed is still listed.
    await Deno.copyFile(`${workspaceRoot}/${path}`, `${dir}/${path}`).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }
}

export interface FlakeOptions {
  /** Of a flake in a folder of the checkout. */
  readonly subdirectory?: string;
  /** Every file that git shows, as somebody has it who clones the project. */
  readonly whole?: boolean;
}

export async function openFlake(library: Library, options: FlakeOptions = {}): Promise<Flake> {
  const { subdirectory = "", whole = false } = options;
  if (typeof box === "string") throw new Error(box);
  const { nix } = box;
  const dir = await Deno.makeTempDir({ dir: temporary, prefix: "flake-" });
  await snapshot(dir, whole ? [] : read);
  const at = subdirectory === "" ? `path:${dir}` : `path:${dir}?dir=${subdirectory}`;
  const within = subdirectory === "" ? "" : "ultracloud/";
  const inputs: Readonly<Record<string, string>> = {
    [`${within}nixpkgs`]: `path:${dir}/nix/stub`,
    [`${within}disko`]: `path:${dir}/nix/stub/disko`,
    ...(library.path === undefined ? {} : { [`${within}nixpkgs/library`]: `path:${library.path}` }),
  };
  const common = [
    "--quiet",
    "--extra-experimental-features",
    "flakes",
    "--store",
    `local?root=${temporary}/store`,
    // It is removed at the end: nothing in it need survive a power cut.
    "--option",
    "fsync-metadata",
    "false",
    "--no-write-lock-file",
    ...library.locked ? [] : Object.entries(inputs).flatMap(([input, url]) => ["--override-input", input, url]),
  ];
  return {
    dir,
    async eval(attribute, apply) {
      return JSON.parse(await nix("eval", ...common, `${at}#${attribute}`, "--json", "--apply", apply));
    },
    async buildText(attribute) {
      const words = ["build", ...common, "--option", "build-hook", "", "--no-link", "--print-out-paths"];
      const out = (await nix(...words, `${at}#${attribute}`)).trim();
      return await Deno.readTextFile(`${temporary}/store${out}`);
    },
    flake: (subcommand, ...args) => nix("flake", subcommand, ...common, at, ...args),
    async edit(path, change) {
      const text = await Deno.readTextFile(`${dir}/${path}`);
      const changed = change(text);
      if (changed === text) throw new Error(`Cannot plant a mistake in ${path}: nothing changed`);
      await Deno.writeTextFile(`${dir}/${path}`, changed);
    },
    [Symbol.dispose]: () => Deno.removeSync(dir, { recursive: true }),
  };
}

/** Parses every Nix file of the checkout; answers them. Throws what the first wrong one is told. */
export async function parseAll(): Promise<readonly string[]> {
  if (typeof box === "string") throw new Error(box);
  const git = new Deno.Command("git", {
    args: ["ls-files", "-co", "--exclude-standard", "--", "*.nix"],
    cwd: workspaceRoot,
  });
  const listed = new TextDecoder().decode((await git.output()).stdout).trim().split("\n");
  const files = listed.map((file) => `${workspaceRoot}/${file}`).filter(isThere);
  await box.instantiate("--parse", ...files);
  return files;
}

/** What is asked of the unmodified flake once for several tests, by library. */
export function askOnce<T>(attribute: string, apply: string): (library: Library) => Promise<T> {
  const answers = new Map<string, Promise<T>>();
  return (library) => {
    let answer = answers.get(library.name);
    if (answer === undefined) {
      answer = openFlake(library).then(async (flake) => {
        using it = flake;
        return await it.eval<T>(attribute, apply);
      });
      answers.set(library.name, answer);
    }
    return answer;
  };
}

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
