import { createWorkloadSigner, type WorkloadSigner } from "@ultracloud/authz";
import { fault, systemClock } from "@ultracloud/base";
import type { ComponentName, Context } from "./contexts.ts";

/** By cluster and key: a library's caller may work with several. */
const signers = new Map<string, Promise<WorkloadSigner>>();

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
  const place = `${clusterId} ${keyFile}`;
  let signer = signers.get(place);
  if (signer === undefined) {
    signer = createWorkloadSigner({ clusterId, name: "operator", keyFile }, { clock: systemClock });
    signers.set(place, signer);
  }
  return await (await signer).authorization(callee)();
}
