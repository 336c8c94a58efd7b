import type { Stack } from "@ultracloud/launch";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { writeContexts } from "../frame/contexts.ts";
import type { Io } from "../frame/io.ts";
import { Session } from "../frame/session.ts";

export interface SessionPlace {
  readonly components: readonly string[];
  readonly clusterId: string;
  readonly contextName: string;
  /** Where contexts and credentials are written. */
  readonly contextsFile: string;
  readonly project: string;
  readonly quickstartDir?: string;
}

/** Logs in to a stack as its administrator and keeps the context in a file of its own. */
export async function openSession(stack: Stack, place: SessionPlace, io: Io): Promise<Session> {
  const endpoints: Record<string, string> = {};
  for (const name of place.components) endpoints[name] = stack.endpoint(name);
  writeContexts(place.contextsFile, {
    version: 1,
    current: place.contextName,
    contexts: {
      [place.contextName]: {
        clusterId: place.clusterId,
        endpoint: "http://127.0.0.1",
        endpoints,
        project: place.project,
        operatorKeyFile: stack.operatorKeyFile,
        ...(place.quickstartDir === undefined ? {} : { quickstartDir: place.quickstartDir }),
      },
    },
    credentials: {},
  });
  // What the person's environment says about contexts is about other clusters.
  const own: Io = { ...io, env: (name) => name === "UC_CONFIG" ? place.contextsFile : undefined };
  const session = new Session(own, { debug: false, explain: false, timeoutMs: 30_000 });
  const adminToken = (await Deno.readTextFile(stack.adminTokenFile)).trim();
  session.saveCredentials(await session.anonymousClient(TokenService, "iam").bootstrapToken({ adminToken }));
  return session;
}
