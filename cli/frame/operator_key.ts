import { createWorkloadSigner, type WorkloadSigner } from "@ultracloud/authz";
import { fault, systemClock } from "@ultracloud/base";
import type { ComponentName, Context } from "./contexts.ts";

let signer: Promise<WorkloadSigner> | undefined;

/**
 * The header that makes a call to a store as the cluster's operator: a workload token of 60 seconds, signed with the
 * operator's own key. The stores know no users, as iam itself lives in them (docs/adr: trust file).
 */
export async function operatorAuthorization(context: Context, callee: ComponentName): Promise<string> {
  const { operatorKeyFile: keyFile, clusterId } = context;
  if (keyFile === undefined || clusterId === undefined) {
    throw fault(
      "permission_denied",
      "no_operator_key",
      `Cannot call ${callee} as this context has no operator key: wanted one made by the quickstart or the deployer`,
    );
  }
  signer ??= createWorkloadSigner({ clusterId, name: "operator", keyFile }, { clock: systemClock });
  return await (await signer).authorization(callee)();
}
