import type { DescService } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { ClusterService, type Member } from "@ultracloud/proto/chainfire/v1";
import { fault } from "@ultracloud/base";
import type { Run } from "../frame/command.ts";

/** A member, and why it did not answer. */
export interface Told {
  readonly id: string;
  readonly name: string;
  readonly clientUrl: string;
  readonly failure?: string;
}

/** True for an address that a token may go to: this machine, or behind TLS. */
function isSafe(url: string): boolean {
  const parsed = URL.parse(url);
  return url.startsWith("unix:") || parsed?.protocol === "https:" ||
    (parsed !== null && ["127.0.0.1", "localhost", "[::1]"].includes(parsed.hostname));
}

/** A client that finds the leader among the members. */
export async function leading<S extends DescService>(
  { session }: Pick<Run, "session">,
  service: S,
): Promise<Client<S>> {
  const own = session.endpoint("chainfire");
  const { members } = await session.client(ClusterService, "chainfire").memberList({ local: true });
  const others = members.map(({ clientUrl }) => clientUrl).filter((url) => url !== own && isSafe(url));
  return session.clientAt(service, "chainfire", own, ...others);
}

/** A client whose calls go on at the leader when the context's member does not lead: such a call has done nothing yet. */
export function following<S extends DescService>(run: Pick<Run, "session">, service: S): Client<S> {
  type Call = (request: unknown, options?: unknown) => unknown;
  const own = run.session.client(service, "chainfire") as Record<string, Call>;
  const wrapped: Record<string, Call> = {};
  for (const { localName } of service.methods) {
    wrapped[localName] = (request, options) => {
      const result = own[localName]!(request, options);
      if (!(result instanceof Promise)) return result;
      return result.catch(async (error) => {
        if ((error as { code?: string }).code !== "not_leader") throw error;
        return await (await leading(run, service) as Record<string, Call>)[localName]!(request, options);
      });
    };
  }
  return wrapped as Client<S>;
}

/** Asks each member for itself, all at once; one that does not answer is told with its failure. */
export async function everyMember<S extends DescService, A>(
  { session }: Pick<Run, "session">,
  service: S,
  ask: (client: Client<S>) => Promise<A>,
): Promise<{ readonly told: Told; readonly answer: A | undefined }[]> {
  // What one member knows: the others may be gone.
  const { members } = await session.client(ClusterService, "chainfire").memberList({ local: true });
  return await Promise.all(members.map(async ({ id, name, clientUrl }) => {
    const told: Told = { id: String(id), name, clientUrl };
    try {
      if (!isSafe(clientUrl)) throw fault("failed_precondition", "no_tls", `Cannot call ${clientUrl} without TLS`);
      return { told, answer: await ask(session.clientAt(service, "chainfire", clientUrl)) };
    } catch (error) {
      return { told: { ...told, failure: (error as Error).message }, answer: undefined };
    }
  }));
}

/** The member of a name or an id. */
export function memberNamed(members: readonly Member[], given: string): Member {
  const found = members.filter((member) => member.name === given || String(member.id) === given);
  if (found.length === 1) return found[0]!;
  throw found.length === 0
    ? fault("not_found", "member_not_found", `Cannot find member ${given}: \`uc cluster member list\` shows them`)
    : fault("invalid_argument", "member_unclear", `Cannot tell which member ${given} is: wanted its id`);
}
