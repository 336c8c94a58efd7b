/** Who calls and what they may do: tokens, the trust file, the policy snapshot. */
export * from "./authenticator.ts";
export * from "./authorizer.ts";
export * from "./conditions.ts";
export * from "./grants.ts";
export { keyPrefixScope, keyScope, noKeyScope } from "./key_scope.ts";
export * from "./permission.ts";
export * from "./policy.ts";
export * from "./policy_client.ts";
export type * from "./policy_view.ts";
export * from "./setup.ts";
export * from "./trust.ts";
export * from "./trust_document.ts";
export * from "./workload.ts";
