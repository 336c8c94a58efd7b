import type { Stack } from "@ultracloud/launch";
import { startTestStack } from "@ultracloud/testing";
import { type Io, openSession, projectName, type Session, singleNodeComponents } from "@ultracloud/cli";

export interface TestCloud extends AsyncDisposable {
  readonly stack: Stack;
  /** Logged in as the administrator. */
  readonly session: Session;
}

/** A terminal that nobody looks at. */
export const silentIo: Io = {
  out: () => {},
  err: () => {},
  interactive: false,
  env: () => undefined,
  ask: () => undefined,
  signal: new AbortController().signal,
};

/** The profile single-node dev as real processes on free ports, with somebody logged in; `also`: further components. */
export async function startTestCloud(also: readonly string[] = []): Promise<TestCloud> {
  const { stack, [Symbol.asyncDispose]: end } = await startTestStack({
    components: [...singleNodeComponents, ...also],
  });
  try {
    const session = await openSession(stack, {
      components: singleNodeComponents,
      clusterId: "test",
      contextName: "test",
      contextsFile: `${stack.dataDir}/uc.json`,
      project: projectName,
    }, silentIo);
    return { stack, session, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** Where images are kept between runs, so that tests share one build. */
export function imageCacheDir(root: string): string {
  return `${Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${root}/work`}/cache/images`;
}
