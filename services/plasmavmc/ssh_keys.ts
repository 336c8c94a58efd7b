import { checkLabels, checkName } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  CreateSshKeyRequestSchema,
  DeleteSshKeyResponseSchema,
  SshKeyRequestSchema,
  SshKeySchema,
  SshKeyService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkSshKey, fingerprintOf } from "./domain/ssh_key.ts";
import { sshKeyKind } from "./kinds.ts";
import { toSshKey } from "./wire_storage.ts";

/** Public SSH keys of a project. */
export function sshKeyService(platform: Platform): BoundService {
  const scope = (project: string, key: string) => resourceScope("plasmavmc", "ssh_key", project, key);
  return bind(SshKeyService, {
    async createSshKey(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      const publicKey = checkSshKey(request.publicKey, "publicKey");
      const value = { publicKey, fingerprint: await fingerprintOf(publicKey) };
      return await platform.transact(async (tx) => {
        const { project, labels } = request;
        return toSshKey(await tx.create(sshKeyKind, { project, name, labels, value }));
      }, { idempotency: idempotencyOf(context, CreateSshKeyRequestSchema, request, SshKeySchema) });
    },
    getSshKey: async (request) => toSshKey(await platform.get(sshKeyKind, request.project, request.sshKey)),
    async listSshKeys(request) {
      const page = await platform.page(sshKeyKind, { project: request.project, page: request.page });
      return { sshKeys: page.items.map(toSshKey), page: { nextPageToken: page.nextPageToken } };
    },
    deleteSshKey: (request, context) =>
      platform.transact(async (tx) => {
        tx.remove(sshKeyKind, await tx.get(sshKeyKind, request.project, request.sshKey));
        return {};
      }, { idempotency: idempotencyOf(context, SshKeyRequestSchema, request, DeleteSshKeyResponseSchema) }),
  }, {
    createSshKey: { resource: "ssh_key", action: "create", scope: (r) => projectScope(r.project) },
    getSshKey: { resource: "ssh_key", action: "get", scope: (r) => scope(r.project, r.sshKey) },
    listSshKeys: { resource: "ssh_key", action: "list", scope: (r) => projectScope(r.project) },
    deleteSshKey: { resource: "ssh_key", action: "delete", scope: (r) => scope(r.project, r.sshKey) },
  });
}
