/** Version of the whole workspace: every component is released together. */
export const version = "0.1.0";
