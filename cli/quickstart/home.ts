import { fault } from "@ultracloud/base";
import { endLeftovers, identify, type ProcessIdentity, runningComponents } from "@ultracloud/launch";
import { namespaceOf, removeNamespace } from "./fabric.ts";

/** Directories of the quickstart below the work root. */
export interface QuickstartHome {
  readonly workRoot: string;
  /** `<work root>/quickstart`: one directory a run, `latest`, and the data. */
  readonly root: string;
  /** State of the cloud: wiped at every start. */
  readonly dataDir: string;
  /** Images and packages: kept. */
  readonly cacheDir: string;
  /** Contexts and credentials of the quickstart's cluster; `uc` finds it here by itself. */
  readonly contextsFile: string;
}

interface StateFile {
  readonly phase: "running" | "kept";
  readonly launcher: ProcessIdentity;
}

export function quickstartHome(env: (name: string) => string | undefined): QuickstartHome {
  const given = env("ULTRACLOUD_WORK_ROOT");
  const workRoot = given ? (given.startsWith("/") ? given : `${Deno.cwd()}/${given}`) : `${Deno.cwd()}/work`;
  const root = `${workRoot}/quickstart`;
  return {
    workRoot,
    root,
    dataDir: `${root}/data`,
    cacheDir: `${workRoot}/cache`,
    contextsFile: `${root}/data/uc.json`,
  };
}

const stateFile = (home: QuickstartHome) => `${home.root}/state.json`;

function readState(home: QuickstartHome): StateFile | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(stateFile(home)));
  } catch {
    return undefined;
  }
}

export function writeState(home: QuickstartHome, phase: StateFile["phase"]): void {
  const launcher = identify(Deno.pid) ?? { pid: Deno.pid, startTicks: "0" };
  Deno.writeTextFileSync(`${stateFile(home)}.new`, JSON.stringify({ phase, launcher } satisfies StateFile));
  Deno.renameSync(`${stateFile(home)}.new`, stateFile(home));
}

/** Holds the work root for one launcher at a time; the kernel lets go of it however the launcher ends. */
export async function takeLock(home: QuickstartHome): Promise<Disposable> {
  await Deno.mkdir(home.root, { recursive: true });
  const file = await Deno.open(`${home.root}/lock`, { create: true, write: true });
  if (!await file.tryLock(true)) {
    file.close();
    throw fault(
      "failed_precondition",
      "quickstart_running",
      `Cannot start a quickstart as another one is starting or running in ${home.root}`,
    );
  }
  return { [Symbol.dispose]: () => file.close() };
}

/** Refuses beside a kept cloud; otherwise ends what a killed launcher left and clears its data. Call under the lock. */
export async function claimHome(home: QuickstartHome): Promise<{ readonly ended: number }> {
  const state = readState(home);
  const alive = runningComponents(home.dataDir);
  if (state?.phase === "kept" && alive.length > 0) {
    throw fault(
      "failed_precondition",
      "quickstart_kept",
      `Cannot start a quickstart beside the one kept in ${home.root} (${
        alive.join(", ")
      } run): end it with \`deno task uc quickstart down\``,
    );
  }
  const ended = await endAll(home);
  await Deno.remove(home.dataDir, { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  writeState(home, "running");
  return { ended };
}

/** Ends processes, then removes the namespace that their network was in. */
async function endAll(home: QuickstartHome): Promise<number> {
  const ended = await endLeftovers(home.dataDir);
  await removeNamespace(await namespaceOf(home));
  return ended;
}

/** Ends a kept cloud, or what is left of one. Answers how many processes ended. */
export async function releaseHome(home: QuickstartHome): Promise<number> {
  const ended = await endAll(home);
  await Deno.remove(stateFile(home)).catch(() => {});
  await Deno.remove(home.dataDir, { recursive: true }).catch(() => {});
  return ended;
}
