/* The decoding interface of NVIDIA's driver, as OpenCV's cudacodec wants to see it.
 *
 * OpenCV asks for nvcuvid.h of the Video Codec SDK, which nobody may hand on. The MIT-licensed nv-codec-headers
 * (Debian and Ubuntu: libffmpeg-nvenc-dev) hold the same structures and, for each function cuvidX, its type tcuvidX;
 * so the functions are declared here. They live in the driver's libnvcuvid.so.1.
 */
#pragma once

#include <cuda.h>
#include <ffnvcodec/dynlink_nvcuvid.h>

#define cuvidMapVideoFrame cuvidMapVideoFrame64
#define cuvidUnmapVideoFrame cuvidUnmapVideoFrame64

#ifdef __cplusplus
extern "C" {
#endif

tcuvidCreateVideoSource cuvidCreateVideoSource;
tcuvidDestroyVideoSource cuvidDestroyVideoSource;
tcuvidSetVideoSourceState cuvidSetVideoSourceState;
tcuvidGetVideoSourceState cuvidGetVideoSourceState;
tcuvidGetSourceVideoFormat cuvidGetSourceVideoFormat;
tcuvidCreateVideoParser cuvidCreateVideoParser;
tcuvidParseVideoData cuvidParseVideoData;
tcuvidDestroyVideoParser cuvidDestroyVideoParser;
tcuvidGetDecoderCaps cuvidGetDecoderCaps;
tcuvidCreateDecoder cuvidCreateDecoder;
tcuvidDestroyDecoder cuvidDestroyDecoder;
tcuvidDecodePicture cuvidDecodePicture;
tcuvidGetDecodeStatus cuvidGetDecodeStatus;
tcuvidReconfigureDecoder cuvidReconfigureDecoder;
tcuvidMapVideoFrame64 cuvidMapVideoFrame64;
tcuvidUnmapVideoFrame64 cuvidUnmapVideoFrame64;
tcuvidCtxLockCreate cuvidCtxLockCreate;
tcuvidCtxLockDestroy cuvidCtxLockDestroy;
tcuvidCtxLock cuvidCtxLock;
tcuvidCtxUnlock cuvidCtxUnlock;

#ifdef __cplusplus
}
#endif
