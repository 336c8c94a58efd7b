import { svcId } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import type { Authenticator, Authorizer, Principal } from "@ultracloud/rpc";

/** Scope of what belongs to one node. No organisation has a colon in its name. */
export function nodeScope(node: string): string {
  return `node:${node}`;
}

/**
 * Binds agents to their nodes: behind mutual TLS the certificate `svc/nix-agent/<node>` says which node calls, and that
 * agent reads and reports this node and no other. An agent with a key of its node's own says so by itself. On loopback, where there are no certificates, all agents are those
 * of this host.
 */
export function bindAgents(
  clusterId: string,
  base: { readonly authenticator: Authenticator; readonly authorizer: Authorizer },
): { authenticator: Authenticator; authorizer: Authorizer } {
  const agent = svcId(clusterId, "nix-agent");
  const nodeId = `spiffe://${clusterId}/node/`;
  const bound = (principal: Principal, certificateId: string | undefined): Principal => {
    // Its own key says whose agent it is; a certificate of another node beside it is somebody else's connection.
    if (principal.id.startsWith(`${agent}/`)) {
      if (certificateId === undefined || certificateId === principal.id) {
        return { kind: "workload", id: `${nodeId}${principal.id.slice(agent.length + 1)}` };
      }
      throw fault(
        "unauthenticated",
        "certificate_mismatch",
        `Cannot accept the token of ${principal.id} from ${certificateId}: wanted its own certificate`,
      );
    }
    if (principal.id !== agent || certificateId === undefined) return principal;
    if (certificateId.startsWith(`${agent}/`)) {
      return { kind: "workload", id: `${nodeId}${certificateId.slice(agent.length + 1)}` };
    }
    throw fault(
      "unauthenticated",
      "certificate_mismatch",
      `Cannot accept the token of an agent from ${certificateId}: wanted a certificate of ${agent}/NODE`,
    );
  };
  return {
    authenticator: {
      ...base.authenticator,
      authenticate(header, peer) {
        const found = base.authenticator.authenticate(header, peer);
        if (found instanceof Promise) return found.then((principal) => bound(principal, peer.certificateId));
        return bound(found, peer.certificateId);
      },
    },
    authorizer: {
      authorize(principal, permission, scope, mutating) {
        if (principal.kind !== "workload" || !principal.id.startsWith(nodeId)) {
          return base.authorizer.authorize(principal, permission, scope, mutating);
        }
        const own = scope === nodeScope(principal.id.slice(nodeId.length));
        if (own && permission.startsWith("deployer.agent.")) return { allow: true };
        return { allow: false, visible: true, reason: `${principal.id} has its own node only` };
      },
    },
  };
}
