import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { type Operation, OperationSchema, OperationService } from "@ultracloud/proto/common/v1";
import { enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { operationColumns, waitFor } from "../frame/operations.ts";
import type { Session } from "../frame/session.ts";
import { withoutResult } from "./_compute_shared.ts";

function parseLimit(input: string): number {
  const limit = Number(input);
  if (Number.isInteger(limit) && limit >= 1 && limit <= limitMax) return limit;
  throw new Error(`Cannot list ${JSON.stringify(input)} operations: wanted 1 to ${limitMax}`);
}

/** Newest first, and whether there are older ones. */
async function newest(session: Session, project: string, limit: number): Promise<[Operation[], boolean]> {
  const client = session.client(OperationService, "plasmavmc");
  const all: Operation[] = [];
  let pageToken = "";
  do {
    const pageSize = Math.min(pageSizeMax, limit - all.length);
    const { operations, page } = await client.listOperations({ project, page: { pageSize, pageToken } });
    all.push(...operations);
    pageToken = page?.nextPageToken ?? "";
  } while (pageToken !== "" && all.length < limit);
  return [all, pageToken !== ""];
}

const ids = async (session: Session) => (await newest(session, session.project, pageSizeMax))[0].map(({ id }) => id);

const operationArg = [{ brief: "Operation id", placeholder: "id" }] as const;
/** Work on workers belongs to no project. */
const clusterFlag = {
  cluster: { kind: "boolean", default: false, brief: "Operations of the cluster, as drains of workers are" },
} as const;

interface ClusterFlag {
  readonly cluster: boolean;
}

/** A page of the server's, and what a completion offers. */
const pageSizeMax = 100;
const limitMax = 10_000;

const projectOf = (session: Session, { cluster }: ClusterFlag) => cluster ? "" : session.project;

export const operation = buildRouteMap({
  docs: { brief: "Long work" },
  routes: {
    list: command<ClusterFlag & { limit: number }>({
      brief: "List operations, newest first",
      flags: {
        ...clusterFlag,
        limit: { kind: "parsed", parse: parseLimit, default: "100", brief: "How many at most" },
      },
      async run({ session, list, io }, flags) {
        const [operations, more] = await newest(session, projectOf(session, flags), flags.limit);
        await list(OperationSchema, operations.map(withoutResult), operationColumns);
        if (more) io.err(`The newest ${operations.length}; there are older ones: wanted --limit for more\n`);
      },
    }),
    show: command<ClusterFlag, [string]>({
      flags: clusterFlag,
      brief: "Show an operation",
      args: operationArg,
      complete: ids,
      async run({ session, one }, chosen, id) {
        const value = await session.client(OperationService, "plasmavmc").getOperation({
          project: projectOf(session, chosen),
          id,
        });
        await one(OperationSchema, withoutResult(value), operationColumns);
      },
    }),
    wait: command<ClusterFlag, [string]>({
      flags: clusterFlag,
      brief: "Wait for an operation to end",
      args: operationArg,
      complete: ids,
      async run({ session, one, flags }, chosen, id) {
        const started = await session.client(OperationService, "plasmavmc").getOperation({
          project: projectOf(session, chosen),
          id,
        });
        const done = await waitFor(session, flags.timeout, "plasmavmc", projectOf(session, chosen), started);
        await one(OperationSchema, withoutResult(done), operationColumns);
      },
    }),
    cancel: command<ClusterFlag, [string]>({
      flags: clusterFlag,
      brief: "Cancel an operation; what it did is undone",
      args: operationArg,
      complete: ids,
      async run({ session, one, confirm }, chosen, id) {
        confirm(`Cancel ${id}?`);
        const value = await session.client(OperationService, "plasmavmc").cancelOperation({
          project: projectOf(session, chosen),
          id,
        });
        await one(OperationSchema, withoutResult(value), operationColumns);
      },
    }),
  },
});

export const event = buildRouteMap({
  docs: { brief: "Changes as they happen" },
  routes: {
    tail: command<{ cursor: string; component: string }, []>({
      brief: "Print changes of the project's resources as JSON lines until Ctrl-C",
      flags: {
        cursor: { kind: "parsed", parse: text, default: "", brief: "Go on after this cursor" },
        component: { kind: "enum", values: ["plasmavmc", "prismnet"], default: "plasmavmc", brief: "Whose resources" },
      },
      async run({ session, io }, flags) {
        const { EventService, EventType } = await import("@ultracloud/proto/common/v1");
        const client = session.client(EventService, flags.component as "plasmavmc");
        for await (const value of client.watchEvents({ project: session.project, cursor: flags.cursor })) {
          const line = {
            cursor: value.cursor,
            type: enumName(EventType, value.type),
            kind: value.ref?.kind,
            name: value.ref?.name,
            id: value.ref?.id,
            resource: value.resourceJson === "" ? undefined : JSON.parse(value.resourceJson),
          };
          io.out(JSON.stringify(line) + "\n");
        }
        if (!io.signal.aborted) {
          throw fault(
            "unavailable",
            "stream_ended",
            "The stream of events ended: wanted --cursor with the last one to go on",
          );
        }
      },
    }),
  },
});
