import { freePort, loadFleet, prepareStack, type Stack } from "@ultracloud/launch";
import { secretsInLogs } from "./secrets.ts";

export * from "./secrets.ts";

/** Root of the workspace, from this file's place in it. */
export const workspaceRoot = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

export interface TestStackOptions {
  readonly components: readonly string[];
  readonly overrides?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** How long all of them may take to be ready; a cold type cache on a busy machine is slow. */
  readonly timeoutMs?: number;
  /** False: only prepared; the test starts components itself. */
  readonly start?: boolean;
}

/**
 * A stack in its own temporary directory on free ports; disposing it ends every process and removes the directory. It
 * fails when a log of a component holds a secret.
 */
export interface TestStack extends AsyncDisposable {
  readonly stack: Stack;
}

/**
 * Real components as real processes under their pinned permission flags. Callees that are not started keep a port
 * nobody listens on, so that a component can be tested alone.
 */
export async function startTestStack(options: TestStackOptions): Promise<TestStack> {
  const dataDir = await Deno.makeTempDir({ prefix: "uc-test-" });
  const ports: Record<string, number> = {};
  for (const [name, { manifest }] of await loadFleet(workspaceRoot)) {
    for (const listener of Object.keys(manifest.listen)) ports[`${name}.${listener}`] = freePort();
  }
  const stack = await prepareStack({
    root: workspaceRoot,
    dataDir,
    components: options.components,
    ports,
    clusterId: "test",
    ...(options.overrides ? { overrides: options.overrides } : {}),
  });
  const end = async () => {
    await stack.stopAll();
    const { found } = await secretsInLogs(`${dataDir}/log`, [`${dataDir}/etc`, `${dataDir}/state`]);
    await Deno.remove(dataDir, { recursive: true });
    if (found.length > 0) throw new Error(`No log may hold a secret: ${found.join(", ")}`);
  };
  if (options.start !== false) {
    try {
      await stack.startAll({ timeoutMs: options.timeoutMs ?? 60_000 });
    } catch (error) {
      await end();
      throw error;
    }
  }
  return { stack, [Symbol.asyncDispose]: end };
}

/**
 * One component alone, as a real process under its real flags, once it is ready. Its callees do not run: use it for a
 * component that is ready without them.
 */
export async function startComponent(
  name: string,
  options: Omit<TestStackOptions, "components"> = {},
): Promise<AsyncDisposable & { readonly url: string; readonly stack: Stack }> {
  const { stack, [Symbol.asyncDispose]: end } = await startTestStack({ ...options, components: [name] });
  return { url: stack.endpoint(name), stack, [Symbol.asyncDispose]: end };
}
