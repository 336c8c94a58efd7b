import { fault, invalidField } from "@ultracloud/base";
import type { GetConsoleLogRequest } from "@ultracloud/proto/plasmavmc/v1";
import { toFault } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import { vmKind } from "./kinds.ts";

const limitDefault = 64 * 1024;
const limitMax = 1024 * 1024;
/** How long a worker holds a follower's question open. */
const followWaitMs = 10_000;
/** A follower outlives a restart of its worker's agent by this many tries. */
const followTriesMax = 10;
const followRetryMs = 1_000;
const followPauseMs = 20;

function limitOf(limit: number): number {
  if (limit < 0 || limit > limitMax) {
    throw invalidField("limit", `Cannot read ${limit} bytes at a time: wanted 0 to ${limitMax}`);
  }
  return limit === 0 ? limitDefault : limit;
}

/** One piece of a VM's console, read from its worker; waits up to `waitMs` for something new. */
export async function readConsole(
  control: Control,
  request: Pick<GetConsoleLogRequest, "project" | "vm" | "offset" | "limit">,
  waitMs: number,
  signal: AbortSignal,
) {
  const limit = limitOf(request.limit);
  const vm = await control.platform.get(vmKind, request.project, request.vm, signal);
  if (vm.value.node === "") {
    throw fault(
      "failed_precondition",
      "vm_not_placed",
      `Cannot read the console of VM ${vm.name} as it is on no worker`,
    );
  }
  const agent = await control.workers.agentOf(vm.value.node);
  try {
    const answer = await agent.readConsole(
      { vmId: vm.id, offset: request.offset, limit, waitMs },
      { signal, timeoutMs: waitMs + 10_000 },
    );
    return { offset: answer.offset, data: answer.data, nextOffset: answer.nextOffset };
  } catch (error) {
    signal.throwIfAborted();
    throw toFault(error);
  }
}

/** The console from an offset on, until the caller leaves or the VM is gone. */
export async function* followConsole(control: Control, request: GetConsoleLogRequest, signal: AbortSignal) {
  let { offset } = request;
  let failures = 0;
  while (!signal.aborted) {
    try {
      const part = await readConsole(control, { ...request, offset }, followWaitMs, signal);
      failures = 0;
      offset = part.nextOffset;
      if (part.data.length > 0) yield part;
      // A worker may answer early: a question per turn of the loop would starve everything else.
      else await control.platform.clock.sleep(followPauseMs, signal).catch(() => {});
    } catch (error) {
      if (signal.aborted) return;
      const known = toFault(error);
      if (known.kind !== "unavailable" || ++failures >= followTriesMax) throw known;
      await control.platform.clock.sleep(followRetryMs, signal).catch(() => {});
    }
  }
}
