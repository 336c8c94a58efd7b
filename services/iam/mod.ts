/** Identity, tokens and authorisation. */
export { loadSecrets, type Secrets, type SecretSources } from "./bootstrap.ts";
export { createIam, type Iam, type IamDeps, type IamOptions } from "./service.ts";
