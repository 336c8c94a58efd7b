import { fault, systemRng, toHex } from "@ultracloud/base";
import { MaintenanceService } from "@ultracloud/proto/chainfire/v1";
import { createHash } from "node:crypto";
import { basename, dirname, join } from "node:path";
import { humanBytes } from "../frame/columns.ts";
import { command, type Run, text } from "../frame/command.ts";

/** How a backup begins, and how long the SHA-256 of all before it at its end is. */
const magic = new Uint8Array([...new TextEncoder().encode("chainfire"), 0, 1]);
const digestBytes = 32;
/** What a member founds itself on when it lies in its state directory at the first start. */
const restoreFileName = "restore.snapshot";

function damaged(path: string, what: string) {
  return fault("data_loss", "backup_damaged", `Cannot use the backup ${path}: ${what}`);
}

/** Refuses to write over what is there. */
function checkAbsent(path: string, wanted: string): void {
  try {
    Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  throw fault("already_exists", "file_exists", `Cannot write ${path} as it exists: wanted ${wanted}`);
}

/** Writes a private file that has its name only once it is whole and on the disk. */
async function writeWhole(path: string, write: (file: Deno.FsFile) => Promise<void>): Promise<void> {
  const part = join(dirname(path), `.${basename(path)}.${toHex(systemRng.fill(new Uint8Array(6)))}.part`);
  const file = await Deno.open(part, { write: true, createNew: true, mode: 0o600 });
  try {
    {
      using _closing = file;
      await write(file);
      await file.sync();
    }
    // A link fails where a rename would replace what appeared meanwhile.
    await Deno.link(part, path);
    using dir = await Deno.open(dirname(path));
    await dir.sync();
  } finally {
    await Deno.remove(part);
  }
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}

/** The pieces of a backup as a member sends them; fails when they are not what was hashed. */
async function* checkedPieces(run: Run): AsyncGenerator<{ readonly chunk: Uint8Array; readonly revision: bigint }> {
  const hash = createHash("sha256");
  let whole = false;
  for await (const { header, chunk, sha256 } of run.session.client(MaintenanceService, "chainfire").snapshot({})) {
    if (whole) throw damaged("on the wire", "it goes on behind its end");
    if (sha256.length > 0) {
      const actual = new Uint8Array(hash.digest());
      if (toHex(actual) !== toHex(sha256)) {
        throw damaged("on the wire", `its SHA-256 is ${toHex(actual)}, wanted ${toHex(sha256)}`);
      }
      whole = true;
    } else hash.update(chunk);
    yield { chunk, revision: header?.revision ?? 0n };
  }
  if (!whole) throw damaged("on the wire", "it ended before its SHA-256");
}

export const backup = command<Record<never, never>, [string]>({
  brief: "Write all keys and leases, as of one moment, to a file",
  details: "The file is checked against its SHA-256 and has its name only once it is whole. `uc cluster restore` and " +
    "`uc cluster backup` are of the same release.",
  args: [{ brief: "File to write; it must not exist", placeholder: "file" }],
  async run(run, _flags, path) {
    checkAbsent(path, "a file that does not");
    if (run.flags.explain || run.flags.dryRun) return run.io.out(`would write ${path}\n`);
    let bytes = 0;
    let revision = 0n;
    await writeWhole(path, async (file) => {
      for await (const piece of checkedPieces(run)) {
        await writeAll(file, piece.chunk);
        bytes += piece.chunk.length;
        revision = piece.revision;
      }
    });
    run.io.err(`Wrote revision ${revision} to ${path}: ${humanBytes(bytes)}\n`);
  },
});

/** Copies a backup while it is checked; the digest of all before them are its last bytes. */
async function copyChecked(path: string, from: Deno.FsFile, to: Deno.FsFile): Promise<void> {
  const { size } = await from.stat();
  if (size < magic.length + digestBytes) throw damaged(path, `it has ${size} bytes only`);
  const hash = createHash("sha256");
  const tail: number[] = [];
  const chunk = new Uint8Array(1 << 20);
  let at = 0;
  for (let n = await from.read(chunk); n !== null; n = await from.read(chunk)) {
    const piece = chunk.subarray(0, n);
    if (at === 0 && toHex(piece.subarray(0, magic.length)) !== toHex(magic)) {
      throw damaged(path, "it is no backup of this release");
    }
    const body = Math.max(0, Math.min(n, size - digestBytes - at));
    hash.update(piece.subarray(0, body));
    tail.push(...piece.subarray(body));
    await writeAll(to, piece);
    at += n;
  }
  const said = toHex(new Uint8Array(tail));
  const actual = toHex(new Uint8Array(hash.digest()));
  if (at !== size || said !== actual) throw damaged(path, `its SHA-256 is ${actual}, wanted ${said.slice(0, 64)}`);
}

export const restore = command<{ dataDir: string }, [string]>({
  brief: "Prepare the state directory of a new cluster's member from a backup",
  details:
    "Works on files alone and calls nobody. Do it for every founding member, with the same file, before the first " +
    "start; the members then begin with the backup's keys, at a revision far above it (restoreRevisionBump), so that " +
    "nobody takes them for the old cluster. A member that has state already is never changed.",
  args: [{ brief: "File that `uc cluster backup` wrote", placeholder: "file" }],
  flags: {
    dataDir: { kind: "parsed", parse: text, brief: "State directory of the new member (stateDir); it must not exist" },
  },
  async run({ io, flags: common }, { dataDir }, path) {
    using from = await Deno.open(path);
    checkAbsent(dataDir, "a directory that does not: a member's state is never replaced");
    if (common.explain || common.dryRun) return io.out(`would make ${dataDir} from ${path}\n`);
    await Deno.mkdir(dataDir, { mode: 0o700 });
    try {
      await writeWhole(join(dataDir, restoreFileName), (to) => copyChecked(path, from, to));
    } catch (error) {
      // Only what was made here: a directory with anything else in it stays.
      await Deno.remove(dataDir).catch(() => {});
      throw error;
    }
    io.err(`${dataDir} begins with ${path} when its member starts for the first time\n`);
  },
});
