// Calls the parser as nvinferserver does, from Python: plain arrays in, rows of (left, top, width, height, score) out.
#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseCenterFace(std::vector<NvDsInferLayerInfo> const &, NvDsInferNetworkInfo const &,
                                         NvDsInferParseDetectionParams const &, std::vector<NvDsInferObjectDetectionInfo> &);

// Tensor i is called names[i] and has the shape dims[4 * i] to dims[4 * i + ranks[i] - 1]. Returns the number of faces, -1 if refused.
extern "C" int parse(int count, const char **names, float **buffers, const unsigned int *ranks, const unsigned int *dims, unsigned int width,
                     unsigned int height, float threshold, int most, float *rows) {
  std::vector<NvDsInferLayerInfo> layers(count);
  for (int i = 0; i < count; ++i) {
    layers[i].dataType = FLOAT;
    layers[i].layerName = names[i];
    layers[i].buffer = buffers[i];
    layers[i].inferDims.numDims = ranks[i];
    for (unsigned int axis = 0; axis < ranks[i]; ++axis) layers[i].inferDims.d[axis] = dims[4 * i + axis];
  }
  std::vector<NvDsInferObjectDetectionInfo> objects;
  if (!NvDsInferParseCenterFace(layers, {width, height, 3}, {1, {threshold}, {threshold}}, objects)) return -1;
  int written = 0;
  for (const NvDsInferObjectDetectionInfo &face : objects) {
    if (written == most) break;
    float *row = rows + 5 * written++;
    row[0] = face.left, row[1] = face.top, row[2] = face.width, row[3] = face.height, row[4] = face.detectionConfidence;
  }
  return written;
}
