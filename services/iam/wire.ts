import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type StoredRecord, toMeta } from "@ultracloud/platform";
import {
  AccessKeySchema,
  ApiKeySchema,
  BindingSchema,
  FederationSchema,
  GroupSchema,
  OAuthClientSchema,
  OrgSchema,
  ProjectSchema,
  RoleSchema,
  ServiceAccountSchema,
  UserSchema,
} from "@ultracloud/proto/iam/v1";
import type {
  AccessKey,
  ApiKey,
  Binding,
  Federation,
  Group,
  OAuthClient,
  Org,
  Project,
  Role,
  ServiceAccount,
  User,
} from "./kinds.ts";

/** Between records and messages: no hash of a secret passes here. */

export function toOrg(r: StoredRecord<Org>): MessageInitShape<typeof OrgSchema> {
  return { meta: toMeta(r), displayName: r.value.displayName };
}

export function toProject(r: StoredRecord<Project>): MessageInitShape<typeof ProjectSchema> {
  return { meta: toMeta(r), displayName: r.value.displayName };
}

export function toUser(r: StoredRecord<User>): MessageInitShape<typeof UserSchema> {
  return { meta: toMeta(r), email: r.value.email, disabled: r.value.disabled };
}

export function toAccount(r: StoredRecord<ServiceAccount>): MessageInitShape<typeof ServiceAccountSchema> {
  return { meta: toMeta(r), disabled: r.value.disabled };
}

export function toKey(r: StoredRecord<ApiKey>): MessageInitShape<typeof ApiKeySchema> {
  return {
    id: r.id,
    serviceAccountId: r.value.serviceAccountId,
    createTime: timestampFromMs(r.createMs),
    expireTime: timestampFromMs(r.value.expiresAtMs),
  };
}

export function toAccessKey(r: StoredRecord<AccessKey>): MessageInitShape<typeof AccessKeySchema> {
  return { id: r.id, serviceAccountId: r.value.serviceAccountId, createTime: timestampFromMs(r.createMs) };
}

export function toClient(r: StoredRecord<OAuthClient>): MessageInitShape<typeof OAuthClientSchema> {
  return { meta: toMeta(r), redirectUris: [...r.value.redirectUris], public: r.value.secretHash === "" };
}

export function toFederation(r: StoredRecord<Federation>): MessageInitShape<typeof FederationSchema> {
  return { meta: toMeta(r), ...r.value };
}

export function toGroup(r: StoredRecord<Group>): MessageInitShape<typeof GroupSchema> {
  return { meta: toMeta(r), members: [...r.value.members] };
}

export function toRole(r: StoredRecord<Role>): MessageInitShape<typeof RoleSchema> {
  return { name: r.name, org: r.project, permissions: [...r.value.permissions], builtIn: false, etag: r.etag };
}

export function toBinding(
  b: { readonly id: string } & Pick<Binding, "principal" | "role" | "scope" | "deny" | "conditions">,
): MessageInitShape<typeof BindingSchema> {
  const conditions = (b.conditions ?? []).map((c) => ({ ...c, values: [...c.values] }));
  return { id: b.id, principal: b.principal, role: b.role, scope: b.scope, deny: b.deny, conditions };
}

/** Public JSON per kind, for events and field filters. */
export const views = {
  org: (r: StoredRecord) => toJson(OrgSchema, create(OrgSchema, toOrg(r as StoredRecord<Org>))),
  project: (r: StoredRecord) => toJson(ProjectSchema, create(ProjectSchema, toProject(r as StoredRecord<Project>))),
  user: (r: StoredRecord) => toJson(UserSchema, create(UserSchema, toUser(r as StoredRecord<User>))),
  service_account: (r: StoredRecord) =>
    toJson(ServiceAccountSchema, create(ServiceAccountSchema, toAccount(r as StoredRecord<ServiceAccount>))),
  role: (r: StoredRecord) => toJson(RoleSchema, create(RoleSchema, toRole(r as StoredRecord<Role>))),
  api_key: (r: StoredRecord) => toJson(ApiKeySchema, create(ApiKeySchema, toKey(r as StoredRecord<ApiKey>))),
  access_key: (r: StoredRecord) =>
    toJson(AccessKeySchema, create(AccessKeySchema, toAccessKey(r as StoredRecord<AccessKey>))),
  federation: (r: StoredRecord) =>
    toJson(FederationSchema, create(FederationSchema, toFederation(r as StoredRecord<Federation>))),
  oauth_client: (r: StoredRecord) =>
    toJson(OAuthClientSchema, create(OAuthClientSchema, toClient(r as StoredRecord<OAuthClient>))),
  group: (r: StoredRecord) => toJson(GroupSchema, create(GroupSchema, toGroup(r as StoredRecord<Group>))),
  binding: (r: StoredRecord) =>
    toJson(BindingSchema, create(BindingSchema, toBinding({ id: r.id, ...(r as StoredRecord<Binding>).value }))),
};
