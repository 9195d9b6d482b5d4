// What the C++ binding sees of archives: one line a tensor, a sum of its bytes, and checks of its own
// behaviour. Run and compared with another decoder by test_bindings.py.
#include "bindings/cpp/oca.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <type_traits>

namespace {

int failures = 0;

void check(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "not true: %s\n", what);
        failures++;
    }
}

template <typename T> void compare(const oca::Tensor &tensor) {
    const std::vector<T> values = tensor.values<T>();
    if (const auto lent = tensor.borrow<T>()) {
        check(lent->size == values.size(), "a lent tensor has its size");
        check(std::memcmp(lent->data, values.data(), values.size() * sizeof(T)) == 0, "lent is what is read");
    }
    const std::uint64_t rows = tensor.shape()[0];
    const std::vector<T> last = tensor.rows<T>(rows - 1, 1);
    check(std::memcmp(last.data(), values.data() + (values.size() - last.size()), last.size() * sizeof(T)) ==
              0,
          "the last row is the end of all");
}

void show(const oca::Tensor &tensor, bool scaled) {
    std::printf("%s %d", tensor.name(), static_cast<int>(tensor.dtype()));
    for (const std::uint64_t dim : tensor.shape())
        std::printf(" %llu", static_cast<unsigned long long>(dim));
    const bool floating = tensor.dtype() <= OCA_BF16 || scaled;
    double sum = 0;
    if (floating)
        for (const double value : tensor.values<double>())
            sum += std::isfinite(value) ? value : 0;
    std::printf(" %.17g\n", sum);
    switch (tensor.dtype()) {
    case OCA_F64:
        return compare<double>(tensor);
    case OCA_F32:
        return compare<float>(tensor);
    case OCA_I8:
        return compare<std::int8_t>(tensor);
    case OCA_U8:
        return compare<std::uint8_t>(tensor);
    case OCA_I32:
        return compare<std::int32_t>(tensor);
    case OCA_I64:
        return compare<std::int64_t>(tensor);
    default:
        check(!tensor.borrow<float>(), "f16 and bf16 are not lent as float");
    }
}

template <typename F> void refuses(oca_status status, F f, const char *what) {
    try {
        f();
        check(false, what);
    } catch (const oca::Error &error) {
        check(error.status() == status && std::strlen(error.what()) > 0, what);
    }
}

} // namespace

int main(int argc, char **argv) {
    static_assert(!std::is_copy_constructible_v<oca::File> &&
                  std::is_nothrow_move_constructible_v<oca::File>);
    for (int i = 1; i < argc; i++) {
        oca::File first(argv[i]);
        oca::File file = std::move(first);
        file.verify();
        std::printf("file %zu %zu\n", file.size(), file.metadata().size());
        for (const auto &[key, value] : file.metadata())
            check(file.metadata(key) == value, "metadata is found by its key");
        check(!file.metadata("no such key"), "a missing key is none");
        for (const oca::Tensor &tensor : file.tensors()) {
            show(tensor, file.find(std::string(tensor.name()) + ".scale").has_value());
            check(file.at(tensor.name()).raw().index == tensor.raw().index, "a tensor is found by its name");
        }
        refuses(
            OCA_ERR_NOT_FOUND, [&] { (void)file.at("no such tensor"); }, "a missing tensor throws");
        refuses(
            OCA_ERR_ARGUMENT, [&] { (void)file[file.size()]; }, "an index past the end throws");
        for (const oca::Tensor &tensor : file.tensors())
            if (tensor.dtype() == OCA_F32)
                refuses(
                    OCA_ERR_RANGE, [&] { (void)tensor.rows<float>(tensor.shape()[0], 1); },
                    "rows past the end throw");

        std::ifstream stream(argv[i], std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(stream),
                                      std::istreambuf_iterator<char>()};
        oca::File memory(bytes.data(), bytes.size());
        check(memory.size() == file.size(), "the archive in memory is the same");
        refuses(
            OCA_ERR_TRUNCATED, [&] { oca::File cut(bytes.data(), bytes.size() - 1); },
            "a cut archive throws");
        memory = std::move(file);
        memory.verify(); // of the file that was moved there
    }
    refuses(
        OCA_ERR_IO, [] { oca::File none("/no/such/file.oca"); }, "a missing file throws");
    return failures ? 1 : 0;
}
