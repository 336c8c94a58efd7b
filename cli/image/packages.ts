import { Fault, fault, retry, systemClock, systemRng } from "@ultracloud/base";

/** A package of the distribution as its index describes it; the digest is the identity of its content. */
export interface PackageRef {
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
}

/** Runs a program to its end; answers stdout. Rejects when the program is absent or fails. */
export type RunProgram = (
  program: string,
  args: readonly string[],
  options?: { readonly cwd?: string; readonly signal?: AbortSignal | undefined },
) => Promise<Uint8Array>;

/** Metapackages that name the newest kernel, the smallest first. */
const kernelMetas = [
  "linux-image-cloud-amd64",
  "linux-image-kvm",
  "linux-image-virtual",
  "linux-image-generic",
  "linux-image-amd64",
] as const;

export const runProgram: RunProgram = async (program, args, options = {}) => {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(program, {
      args: [...args],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { LC_ALL: "C" },
    }).output();
  } catch (cause) {
    if (options.signal?.aborted) throw options.signal.reason;
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw fault(
      "failed_precondition",
      "image_program_missing",
      `Cannot build the guest image as ${program} is not installed: wanted a Debian or Ubuntu host`,
      { cause },
    );
  }
  options.signal?.throwIfAborted();
  if (!output.success) {
    const said = new TextDecoder().decode(output.stderr).trim().slice(-600);
    throw fault(
      "failed_precondition",
      "image_program_failed",
      `Cannot run ${program} ${args.join(" ").slice(0, 200)}: it ended with ${output.code}: ${said}`,
    );
  }
  return output.stdout;
};

/** What the image is made of: the kernel with its modules, and busybox. */
export interface GuestPackages {
  /** The kernel image first, then module packages where the distribution splits them off. */
  readonly kernel: readonly PackageRef[];
  readonly busybox: PackageRef;
}

/** The newest packages the host's package lists know. Fails with the command to run when there are no lists. */
export async function resolvePackages(run: RunProgram, signal?: AbortSignal): Promise<GuestPackages> {
  const architecture = new TextDecoder().decode(await run("dpkg", ["--print-architecture"], { signal })).trim();
  if (architecture !== "amd64") {
    throw fault(
      "failed_precondition",
      "image_architecture",
      `Cannot build the guest image on ${architecture}: wanted amd64`,
    );
  }
  const busybox = await show(run, "busybox-static", signal);
  for (const meta of busybox === undefined ? [] : kernelMetas) {
    const image = await concreteKernel(run, meta, signal);
    if (image === undefined) continue;
    const modules: PackageRef[] = [];
    for (const name of dependencies(image.stanza).filter((name) => /^linux-modules-\d/.test(name))) {
      const found = await show(run, name, signal);
      if (found) modules.push(found.ref);
    }
    return { kernel: [image.ref, ...modules], busybox: busybox!.ref };
  }
  throw fault(
    "failed_precondition",
    "package_lists_missing",
    "Cannot find a cloud kernel and busybox-static in the package lists: wanted them from `apt-get update` (as root)",
  );
}

/** Downloads the package into `dir` and unpacks it below `into`, without installing anything. */
export async function unpack(
  run: RunProgram,
  ref: PackageRef,
  dir: string,
  into: string,
  signal?: AbortSignal,
): Promise<void> {
  const asRoot = Deno.uid() === 0 ? ["-o", "APT::Sandbox::User=root"] : [];
  const before = new Set(await names(dir));
  await download(run, [...asRoot, "-q", ...aptRetries, "download", `${ref.name}=${ref.version}`], dir, signal);
  const file = (await names(dir)).find((name) => !before.has(name) && name.endsWith(".deb"));
  if (file === undefined) {
    throw fault("data_loss", "package_missing", `Cannot find the downloaded ${ref.name} ${ref.version}`);
  }
  await run("dpkg-deb", ["-x", `${dir}/${file}`, into], { signal });
  await Deno.remove(`${dir}/${file}`);
}

/** A mirror that is busy answers a moment later; apt itself waits between its tries. */
export const aptRetries = ["-o", "Acquire::Retries=3"] as const;
/** Beyond apt's own: it gives up at once when a mirror closes the connection in the middle. */
const downloadTries = 3;

async function download(run: RunProgram, args: readonly string[], dir: string, signal?: AbortSignal): Promise<void> {
  await retry(
    { baseMs: 500, maxMs: 4_000, tries: downloadTries },
    {
      clock: systemClock,
      rng: systemRng,
      retryable: (error) => error instanceof Fault && error.code === "image_program_failed",
    },
    () => run("apt-get", args, { cwd: dir, signal }),
    signal,
  );
}

interface Shown {
  readonly ref: PackageRef;
  readonly stanza: ReadonlyMap<string, string>;
}

async function concreteKernel(run: RunProgram, meta: string, signal?: AbortSignal): Promise<Shown | undefined> {
  let found = await show(run, meta, signal);
  // linux-image-virtual of some releases names linux-image-generic first: two steps at most.
  for (let step = 0; found && step < 2; step++) {
    const next = dependencies(found.stanza).find((name) => /^linux-image-/.test(name));
    if (next === undefined) return undefined;
    found = await show(run, next, signal);
    if (found && /^linux-image-(unsigned-)?\d/.test(next)) return found;
  }
  return undefined;
}

async function show(run: RunProgram, name: string, signal?: AbortSignal): Promise<Shown | undefined> {
  let text: string;
  try {
    text = new TextDecoder().decode(await run("apt-cache", ["show", "--no-all-versions", name], { signal }));
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof Error && "code" in error && error.code === "image_program_failed") return undefined;
    throw error;
  }
  const stanza = new Map<string, string>();
  for (const line of text.split("\n\n", 1)[0]!.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0 && !line.startsWith(" ")) stanza.set(line.slice(0, colon), line.slice(colon + 2));
  }
  const version = stanza.get("Version");
  const sha256 = stanza.get("SHA256");
  if (version === undefined || sha256 === undefined) return undefined;
  return { ref: { name: stanza.get("Package") ?? name, version, sha256 }, stanza };
}

function dependencies(stanza: ReadonlyMap<string, string>): string[] {
  return (stanza.get("Depends") ?? "").split(",").map((part) => part.trim().split(/[\s:(|]/, 1)[0]!).filter(Boolean);
}

async function names(dir: string): Promise<string[]> {
  const out: string[] = [];
  for await (const entry of Deno.readDir(dir)) out.push(entry.name);
  return out;
}
