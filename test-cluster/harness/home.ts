import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";

/** Directories and names of one test cluster: one for each work root, so that several may run on a machine. */
export interface ClusterHome {
  readonly workRoot: string;
  /** Wiped at every fresh start. */
  readonly stateDir: string;
  /** Images and packages: kept. */
  readonly cacheDir: string;
  /** Sockets; short, as a unix socket's path has at most 107 bytes. */
  readonly runDir: string;
  /** First part of the names of everything the kernel knows: namespaces. */
  readonly prefix: string;
  /** There once every node is made: what a harness that was killed before it left is no cluster. */
  readonly madeFile: string;
  readonly journalFile: string;
  readonly lockFile: string;
}

/** The home below `$ULTRACLOUD_WORK_ROOT`, else below `./work`. */
export function clusterHome(env: (name: string) => string | undefined): ClusterHome {
  const given = env("ULTRACLOUD_WORK_ROOT");
  const workRoot = given ? (given.startsWith("/") ? given : `${Deno.cwd()}/${given}`) : `${Deno.cwd()}/work`;
  const root = `${workRoot}/test-cluster`;
  const prefix = `uc${createHash("sha256").update(root).digest("hex").slice(0, 6)}`;
  return {
    workRoot,
    stateDir: `${root}/state`,
    cacheDir: `${workRoot}/cache`,
    runDir: `${env("TMPDIR") ?? "/tmp"}/${prefix}`,
    prefix,
    madeFile: `${root}/state/made`,
    journalFile: `${root}/journal.jsonl`,
    lockFile: `${root}/lock`,
  };
}

/** Holds the work root for one harness at a time; the kernel lets go of it however the harness ends. */
export async function lockHome(home: ClusterHome): Promise<Disposable> {
  await Deno.mkdir(home.lockFile.slice(0, home.lockFile.lastIndexOf("/")), { recursive: true });
  const file = await Deno.open(home.lockFile, { create: true, write: true });
  if (!await file.tryLock(true)) {
    file.close();
    throw fault(
      "failed_precondition",
      "cluster_busy",
      `Cannot use the test cluster below ${home.workRoot} as another command does: wanted it to end, or another ULTRACLOUD_WORK_ROOT`,
    );
  }
  return { [Symbol.dispose]: () => file.close() };
}
