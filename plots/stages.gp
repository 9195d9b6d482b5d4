# What each stage of a search gained: the error on the same validation samples, from fewer steps to what ships.
# Reads stages.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."stages.tsv"

rows = 0; most = 0.0
array label[16]; array value[16]; array share[16]; array count[16]
stats file using (column("search") == 0 && rows < 16 ? (rows = rows + 1, label[rows] = strcol("stage"), value[rows] = column("error"), \
                  share[rows] = 100 * column("macs"), count[rows] = column("steps"), most = max2(most, column("error"))) : 0) nooutput
eval start(860, rows > 0 ? 110 + 42 * rows : 300, rows > 0 ? 2 * rows + 9 : 20)
set xlabel "relative error from the reference (no unit)"
if (rows == 0) {
    eval say_nothing
} else {
    set lmargin (text ? 32 : 30)
    set rmargin 4
    set xrange [0:most * 2]
    set yrange [rows + 0.6:0.4]
    set grid xtics noytics lc rgb "#808080" lw 0.4 dt (2, 4)
    command = "set ytics ("
    do for [i = 1:rows] { command = command.sprintf("%s'%s' %g", i > 1 ? ", " : "", label[i], i) }
    eval command.")"
    do for [i = 1:rows] {
        set label i sprintf("%.4g (%g steps, %.1f %% of MACs)", value[i], count[i], share[i]) at value[i], i left offset (text ? 1 : 0.6), 0
    }
    unset key
    tint(i) = label[i] eq "fewer steps" ? grey : label[i] eq "fitted steps" ? vermillion : label[i] eq "more steps, cached" ? sky : blue
    if (text) {
        set samples 2 * columns
        plot for [i = 1:rows] '+' using (value[i] * $1 / (2 * most)):(i) with points pt "#" notitle
    } else {
        plot for [i = 1:rows] '+' every ::0::0 using (value[i] / 2):(i):(value[i] / 2):(0.36) with boxxyerror lc rgb tint(i) notitle
    }
}
