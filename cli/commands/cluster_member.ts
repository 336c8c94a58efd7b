import { buildRouteMap } from "@stricli/core";
import { ClusterService, type Member, MemberSchema } from "@ultracloud/proto/chainfire/v1";
import type { Column } from "../frame/columns.ts";
import { command, type Run, text } from "../frame/command.ts";
import { leading, memberNamed } from "./_members.ts";

const columns: readonly Column<Member>[] = [
  { name: "id", get: (m) => String(m.id), order: (m) => Number(m.id) },
  { name: "name", get: (m) => m.name },
  { name: "role", get: (m) => m.autoPromote ? "learner, to vote" : m.isLearner ? "learner" : "voter" },
  { name: "client_url", get: (m) => m.clientUrl },
  { name: "peer_url", get: (m) => m.peerUrl },
];
const memberArg = { brief: "Name or id of a member", placeholder: "member" } as const;
const clusterOf = ({ session }: Pick<Run, "session">) => session.client(ClusterService, "chainfire");
const complete = async (session: Run["session"]) =>
  (await clusterOf({ session }).memberList({ local: true })).members.map(({ name }) => name);

const urlFlags = {
  peerUrl: { kind: "parsed", parse: text, brief: "Where the other members reach it" },
  clientUrl: { kind: "parsed", parse: text, brief: "Where clients reach it" },
} as const;
interface UrlFlags {
  readonly peerUrl: string;
  readonly clientUrl: string;
}

/** The member that a person named, as the cluster has it. */
async function named(run: Run, given: string): Promise<Member> {
  return memberNamed((await clusterOf(run).memberList({})).members, given);
}

/** What the process of a new member needs in its configuration. */
function tellJoin(run: Run, added: Member | undefined): void {
  if (added === undefined) return;
  run.io.err(`Member ${added.name} has the id ${added.id}: start it with memberId = ${added.id} and join = true\n`);
}

export const member = buildRouteMap({
  docs: { brief: "Members of the coordination store" },
  routes: {
    list: command({
      brief: "List members",
      async run(run) {
        await run.list(MemberSchema, (await clusterOf(run).memberList({})).members, columns);
      },
    }),
    add: command<UrlFlags & { learner: boolean; autoPromote: boolean }, [string]>({
      brief: "Add a member; its process is started afterwards, with the id that is printed",
      args: [{ brief: "Name of the new member", placeholder: "name" }],
      flags: {
        ...urlFlags,
        learner: { kind: "boolean", default: false, brief: "Without a vote until it is promoted: the safe way" },
        autoPromote: { kind: "boolean", default: false, brief: "A learner that gets its vote once it has caught up" },
      },
      async run(run, flags, name) {
        const { member, members } = await (await leading(run, ClusterService)).memberAdd({
          name,
          peerUrl: flags.peerUrl,
          clientUrl: flags.clientUrl,
          isLearner: flags.learner,
          autoPromote: flags.autoPromote,
        });
        await run.list(MemberSchema, members, columns);
        tellJoin(run, member);
      },
    }),
    promote: command({
      brief: "Give a learner that has caught up its vote",
      args: [memberArg],
      complete,
      async run(run, _flags, given) {
        const { id, name } = await named(run, given!);
        await (await leading(run, ClusterService)).memberPromote({ id });
        run.io.err(`${name} has a vote\n`);
      },
    }),
    remove: command({
      brief: "Remove a member; its id is never used again",
      args: [memberArg],
      complete,
      async run(run, _flags, given) {
        const { id, name } = await named(run, given!);
        run.confirm(`Remove the member ${name}?`);
        await (await leading(run, ClusterService)).memberRemove({ id });
        run.io.err(`Removed ${name}\n`);
      },
    }),
    update: command<{ peerUrl?: string; clientUrl?: string; name?: string }, [string]>({
      brief: "Move a member to other addresses, or give it another name",
      args: [memberArg],
      complete,
      flags: {
        peerUrl: { ...urlFlags.peerUrl, optional: true },
        clientUrl: { ...urlFlags.clientUrl, optional: true },
        name: { kind: "parsed", parse: text, optional: true, brief: "New name" },
      },
      async run(run, flags, given) {
        const { id } = await named(run, given);
        const { peerUrl = "", clientUrl = "", name = "" } = flags;
        const { members } = await (await leading(run, ClusterService)).memberUpdate({ id, peerUrl, clientUrl, name });
        await run.list(MemberSchema, members, columns);
      },
    }),
    replace: command<UrlFlags & { name: string }, [string]>({
      brief: "Put a new member in the place of another, in one step",
      args: [{ ...memberArg, brief: "Name or id of the member that goes" }],
      complete,
      flags: { name: { kind: "parsed", parse: text, brief: "Name of the member that comes" }, ...urlFlags },
      async run(run, flags, given) {
        const gone = await named(run, given);
        run.confirm(`Replace the member ${gone.name} by ${flags.name}?`);
        const { member, members } = await (await leading(run, ClusterService)).memberReplace({
          id: gone.id,
          name: flags.name,
          peerUrl: flags.peerUrl,
          clientUrl: flags.clientUrl,
        });
        await run.list(MemberSchema, members, columns);
        tellJoin(run, member);
      },
    }),
    transferLeader: command({
      brief: "Let another member lead",
      args: [memberArg],
      complete,
      async run(run, _flags, given) {
        const { id, name } = await named(run, given!);
        await (await leading(run, ClusterService)).leaderTransfer({ target: id });
        run.io.err(`${name} leads\n`);
      },
    }),
  },
});
