// From the tensors of the model `centerface` to boxes for DeepStream: a parser for nvinferserver.
//
// The arithmetic is that of face_server/models/centerface.py: at stride 4 a heatmap of centres ("537"), the logarithms of
// height and width ("538"), the offset of the centre, y before x ("539"). Landmarks ("540") are left out: DeepStream's boxes
// have no place for them. Overlapping boxes are dropped by nvinferserver afterwards (nms in centerface.txt).

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

constexpr float kStride = 4.0f;

struct Tensor {
  const float *values;
  unsigned int channels, rows, columns;

  const float *channel(unsigned int index) const { return values + static_cast<std::size_t>(index) * rows * columns; }
};

// The tensor called `name`: channels × rows × columns, with or without a batch of one in front. False if it is not there.
bool find(const std::vector<NvDsInferLayerInfo> &layers, const char *name, unsigned int channels, Tensor &found) {
  for (const NvDsInferLayerInfo &layer : layers) {
    if (layer.layerName == nullptr || std::strcmp(layer.layerName, name) != 0) continue;
    const NvDsInferDims &dims = layer.inferDims;
    const unsigned int first = dims.numDims == 4 && dims.d[0] == 1 ? 1 : 0;
    if (layer.dataType != FLOAT || layer.buffer == nullptr || dims.numDims != first + 3 || dims.d[first] != channels) return false;
    found = {static_cast<const float *>(layer.buffer), channels, static_cast<unsigned int>(dims.d[first + 1]),
             static_cast<unsigned int>(dims.d[first + 2])};
    return true;
  }
  return false;
}

bool same_size(const Tensor &one, const Tensor &other) { return one.rows == other.rows && one.columns == other.columns; }

}  // namespace

extern "C" bool NvDsInferParseCenterFace(std::vector<NvDsInferLayerInfo> const &layers, NvDsInferNetworkInfo const &network,
                                         NvDsInferParseDetectionParams const &parameters,
                                         std::vector<NvDsInferObjectDetectionInfo> &objects) {
  Tensor heatmap{}, size{}, offset{};
  if (!find(layers, "537", 1, heatmap) || !find(layers, "538", 2, size) || !find(layers, "539", 2, offset) ||
      !same_size(heatmap, size) || !same_size(heatmap, offset)) {
    std::cerr << "centerface: the tensors 537 (1 channel), 538 and 539 (2 channels), float and of equal size, are expected\n";
    return false;
  }
  const float threshold = parameters.perClassPreclusterThreshold.empty() ? 0.5f : parameters.perClassPreclusterThreshold[0];
  const float width_px = static_cast<float>(network.width), height_px = static_cast<float>(network.height);
  for (unsigned int row = 0; row < heatmap.rows; ++row) {
    for (unsigned int column = 0; column < heatmap.columns; ++column) {
      const std::size_t cell = static_cast<std::size_t>(row) * heatmap.columns + column;
      const float score = heatmap.values[cell];
      if (!(score >= threshold)) continue;
      const float height = std::exp(size.channel(0)[cell]) * kStride, width = std::exp(size.channel(1)[cell]) * kStride;
      const float y = (static_cast<float>(row) + offset.channel(0)[cell] + 0.5f) * kStride;
      const float x = (static_cast<float>(column) + offset.channel(1)[cell] + 0.5f) * kStride;
      // DeepStream draws nothing that reaches beyond the picture.
      const float left = std::max(0.0f, x - width / 2), top = std::max(0.0f, y - height / 2);
      const float right = std::min(width_px, x + width / 2), bottom = std::min(height_px, y + height / 2);
      if (!(right > left && bottom > top)) continue;
      NvDsInferObjectDetectionInfo face{};
      face.classId = 0;
      face.left = left;
      face.top = top;
      face.width = right - left;
      face.height = bottom - top;
      face.detectionConfidence = score;
      objects.push_back(face);
    }
  }
  return true;
}

#ifdef CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE
CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseCenterFace);
#endif
