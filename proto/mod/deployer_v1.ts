export * from "../gen/ultracloud/deployer/v1/deployer_pb.ts";
