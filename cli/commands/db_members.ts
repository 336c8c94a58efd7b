import { fault } from "@ultracloud/base";
import { DatabaseSchema, DatabaseService, type GroupStatus, GroupStatusSchema } from "@ultracloud/proto/flaredb/v1";
import type { Column } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { databaseArg, optionalText } from "./_db_shared.ts";
import { databaseColumns } from "./_db_columns.ts";

/** Which members hold a database, which of them leads, and whether they agree. */

/** "1,2,3" as member ids. */
function membersOf(list: string): bigint[] {
  const ids = list.split(",").map((part) => part.trim());
  if (ids.every((id) => /^\d{1,10}$/.test(id))) return ids.map(BigInt);
  throw fault(
    "invalid_argument",
    "bad_members",
    `Cannot read ${JSON.stringify(list)} as members: wanted ids like 1,2,3`,
  );
}

export const maybeMembers = (list: string | undefined) => list === undefined ? [] : membersOf(list);

const groupColumns: readonly Column<GroupStatus>[] = [
  { name: "database", get: (g) => g.database },
  { name: "leader", get: (g) => g.leader === 0n ? "-" : String(g.leader) },
  { name: "voters", get: (g) => g.voters.join(",") },
  { name: "learners", get: (g) => g.learners.join(",") },
  { name: "applied", get: (g) => String(g.appliedIndex) },
  { name: "behind", get: (g) => String(g.commitIndex - g.appliedIndex) },
  { name: "term", get: (g) => String(g.term), wide: true },
  { name: "diverged", get: (g) => g.diverged ? "yes" : "no", wide: true },
  { name: "checked", get: (g) => g.checkedIndex === 0n ? "-" : String(g.checkedIndex), wide: true },
];

export const status = command<Record<never, never>, [string?]>({
  brief: "Show how the member that is asked sees its databases: who leads, who votes, how far it is",
  args: [{ ...databaseArg, optional: true }],
  async run({ session, list }, _flags, database) {
    const { groups } = await session.client(DatabaseService, "flaredb").status({});
    const wanted = groups.filter((group) => database === undefined || group.database === database);
    if (wanted.length === 0 && database !== undefined) {
      throw fault(
        "not_found",
        "database_not_here",
        `Cannot find ${database} on the member that was asked: wanted one that holds it, as \`uc db list\` shows`,
      );
    }
    await list(GroupStatusSchema, wanted, groupColumns);
  },
});

export const lead = command<Record<never, never>, [string, string]>({
  brief: "Let another member lead a database; leaders also spread by themselves",
  args: [databaseArg, { brief: "Member that votes in it", placeholder: "member" }],
  async run({ session, io }, _flags, name, given) {
    const ids = membersOf(given);
    if (ids.length !== 1) {
      throw fault("invalid_argument", "bad_members", `Cannot let ${given} lead: wanted one member`);
    }
    await session.client(DatabaseService, "flaredb").transferLeader({ name, member: ids[0]! });
    io.err(`Member ${ids[0]} was asked to lead ${name}\n`);
  },
});

export const place = command<{ learners?: string }, [string, string]>({
  brief: "Move a database to members; it stays in use meanwhile",
  args: [databaseArg, { brief: "Members, like 1,2,3", placeholder: "members" }],
  flags: { learners: optionalText("Members that hold a copy for reading beside them, like 4,5") },
  async run({ session, one }, { learners }, name, members) {
    const client = session.client(DatabaseService, "flaredb");
    const request = { name, replicas: membersOf(members), learners: maybeMembers(learners) };
    await one(DatabaseSchema, await client.placeDatabase(request), databaseColumns);
  },
});

export const check = command<Record<never, never>, [string]>({
  brief: "Compare the content of all replicas",
  args: [databaseArg],
  async run({ session, io }, _flags, name) {
    const { index, sha256, replicas } = await session.client(DatabaseService, "flaredb").checkReplicas({ name });
    io.out(`${sha256} at index ${index}\n`);
    for (const { member, sha256: own, differs, learner } of replicas) {
      const found = own === "" ? "did not report" : differs ? `differs: ${own}` : "the same";
      io.out(`${learner ? "learner" : "member"} ${member}  ${found}\n`);
    }
    const ids = (those: typeof replicas) => those.map(({ member }) => member).join(", ");
    const differing = replicas.filter(({ differs }) => differs);
    if (differing.length > 0) {
      throw fault(
        "data_loss",
        "database_diverged",
        `The content of ${name} on ${ids(differing)} differs from that of most members: it is not served there any ` +
          "more; place the database without, then with them",
      );
    }
    const silent = replicas.filter((each) => each.sha256 === "");
    if (silent.length > 0) io.err(`Not compared, as they did not report in time: ${ids(silent)}\n`);
  },
});
