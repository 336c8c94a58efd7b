import type { DescService } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { DeployerService, NodeService } from "@ultracloud/proto/deployer/v1";
import type { Run } from "../frame/command.ts";

type With = Pick<Run, "session">;

/** True for an address that a token may go to: this machine, or behind TLS. */
function isSafe(url: string): boolean {
  const parsed = URL.parse(url);
  return parsed?.protocol === "https:" ||
    (parsed !== null && ["127.0.0.1", "localhost", "[::1]"].includes(parsed.hostname));
}

/** A client that finds the deployer which writes: a standby names it. */
export async function writing<S extends DescService>({ session }: With, service: S): Promise<Client<S>> {
  const own = session.endpoint("deployer");
  const { writer } = await session.client(DeployerService, "deployer").getStatus({});
  const others = writer !== undefined && writer.url !== own && isSafe(writer.url) ? [writer.url] : [];
  return session.clientAt(service, "deployer", own, ...others);
}

/** Names of nodes, for the shell. */
export async function completeNodes(session: Run["session"]): Promise<string[]> {
  const { nodes } = await session.client(NodeService, "deployer").listNodes({ page: { pageSize: 1000 } });
  return nodes.map(({ meta }) => meta!.name);
}

/** Ids of machines that wait, for the shell. */
export async function completeMachines(session: Run["session"]): Promise<string[]> {
  return (await session.client(NodeService, "deployer").listPending({})).machines.map(({ id }) => id);
}
