import { fault, type FaultKind } from "@ultracloud/base";
import { type Operation, OperationSchema, OperationService, OperationState } from "@ultracloud/proto/common/v1";
import { type Column, enumName, humanAge } from "./columns.ts";
import type { Run } from "./command.ts";
import type { ComponentName } from "./contexts.ts";
import { type Session } from "./session.ts";

export const operationColumns: readonly Column<Operation>[] = [
  { name: "id", get: (o) => o.id },
  { name: "kind", get: (o) => o.kind },
  { name: "target", get: (o) => o.target?.name ?? "" },
  { name: "state", get: (o) => enumName(OperationState, o.state) },
  { name: "progress", get: (o) => `${o.progressPercent}%` },
  { name: "step", get: (o) => o.step },
  { name: "age", get: (o) => o.startTime ? humanAge(Number(o.startTime.seconds) * 1000, Date.now()) : "" },
  { name: "error", get: (o) => o.error?.message ?? "", wide: true },
];

/** Follows long work to its end with a progress line; with `--no-wait` prints the operation and answers undefined. */
export async function follow(
  run: Run,
  component: ComponentName,
  project: string,
  started: Operation,
): Promise<Operation | undefined> {
  if (!run.flags.wait) {
    await run.one(OperationSchema, started, operationColumns);
    return undefined;
  }
  return await waitFor(run.session, run.flags.timeout, component, project, started);
}

/** Waits for the end of an operation; its failure is thrown as a fault. */
export async function waitFor(
  session: Session,
  timeoutMs: number,
  component: ComponentName,
  project: string,
  started: Operation,
): Promise<Operation> {
  const client = session.client(OperationService, component);
  const deadline = performance.now() + timeoutMs;
  const { io } = session;
  let operation = started;
  let shown = "";
  for (;;) {
    const line = `${operation.kind} ${operation.target?.name ?? ""}: ${
      operation.step || "waiting"
    } ${operation.progressPercent}%`;
    if (line !== shown) {
      io.err(io.interactive ? `\r\x1b[K${line}` : `${line}\n`);
      shown = line;
    }
    if (operation.state !== OperationState.PENDING && operation.state !== OperationState.RUNNING) break;
    const left = deadline - performance.now();
    if (left <= 0) {
      throw fault(
        "deadline_exceeded",
        "wait_timeout",
        `Cannot wait longer for ${operation.kind}: it goes on as ${operation.id}`,
      );
    }
    operation = await client.waitOperation({ project, id: operation.id, timeoutMs: Math.min(5_000, Math.ceil(left)) });
  }
  if (io.interactive) io.err("\r\x1b[K");
  if (operation.state === OperationState.DONE) return operation;
  if (operation.state === OperationState.CANCELLED) {
    throw fault("cancelled", "operation_cancelled", `${operation.kind} was cancelled`);
  }
  throw fault(
    // Said by a service of this cloud; an older one says nothing.
    (operation.error?.kind || "failed_precondition") as FaultKind,
    operation.error?.code ?? "operation_failed",
    operation.error?.message ?? `${operation.kind} failed`,
  );
}
