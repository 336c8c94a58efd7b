/** Identity, tokens and authorisation. */
export { type AuthoritySeed, loadAuthoritySeed } from "./authority_seed.ts";
export { loadSecrets, type Secrets, type SecretSources } from "./bootstrap.ts";
export { createIam, type Iam, type IamDeps, type IamOptions } from "./service.ts";
