export * from "../gen/ultracloud/prismnet/v1/prismnet_pb.ts";
