import { type Clock, type Fault, fault } from "@ultracloud/base";
import { toFault } from "@ultracloud/rpc";
import { signedHeaders } from "./signature.ts";

/** Posts a body once; answers the status. */
export type Post = (
  body: string,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
) => Promise<number>;

/** Sends a body to a receiver once, signed; undefined when that accepted it. `hook_gone`: it wants no more. */
export async function deliverOnce(
  { id, body, secret }: { readonly id: string; readonly body: string; readonly secret: string },
  { post, clock }: { readonly post: Post; readonly clock: Clock },
  signal: AbortSignal,
): Promise<Fault | undefined> {
  try {
    const status = await post(body, signedHeaders({ id, timeMs: clock.nowMs(), body }, secret), signal);
    if (status >= 200 && status < 300) return undefined;
    if (status === 410) return fault("failed_precondition", "hook_gone", "The receiver answered 410: it is gone");
    return fault("unavailable", "hook_refused", `The receiver answered ${status}: wanted 200 to 299`);
  } catch (error) {
    return toFault(error);
  }
}
