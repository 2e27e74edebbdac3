"""Random Teachers are Good Teachers (ICML 2023): a student distilled from a frozen, randomly initialised teacher.

Symbols of the paper (section 3), their meaning, and their names in the code:

===============  ==================================================  ==============================================
symbol           meaning                                             name in the code
===============  ==================================================  ==============================================
x                image, ``(B, C, H, W)``                             ``batch["views"]``
g_psi            encoder, images to embeddings ``(B, r)``            ``Network.encoder``, ``Network.embed``
h_phi            projector, embeddings to logits ``(B, m)``          ``Network.head``, a ``ProjectionHead``
r, k, m          widths of embedding, bottleneck and logits          ``embed_dim``, ``bottleneck_dim``, ``out_dim``
theta_T          the teacher's parameters                            ``SelfDistillation.teacher``
theta_S          the student's parameters                            ``SelfDistillation.student``
theta_S(alpha)   the student's start at locality alpha               ``InterpolatedStart(alpha)``
delta            sqrt((1 - alpha)^2 + alpha^2)                       ``preserve_variance``
tau              temperature                                         ``student_temperature``, ``teacher_temperature``
gamma            how fast the teacher follows                        1 - ``EMATeacher(momentum)``
c                centre of the logits, ``(m,)``                      ``ViewLoss.teacher_centre``, ``student_centre``
===============  ==================================================  ==============================================

Equations and sections of the paper, and where they are computed:

    teacher-student loss, section 3                     dinopl/distillation/losses.py:ViewLoss.forward
    cross-entropy, section 3 and appendix E.3           dinopl/core/divergences.py:cross_entropy
    KL divergence, section 3                            dinopl/core/divergences.py:kl_divergence
    cross-entropy and KL divergence in one pass         dinopl/core/divergences.py:cross_entropy_and_kl
    pairs of views, as in the published code            dinopl/distillation/losses.py:view_pairs
    centring, appendix E.3                              dinopl/distillation/losses.py:ViewLoss.update_centres
    temperatures, appendix E.3                          dinopl/core/divergences.py:tempered
    projection head, appendices A and E.1               dinopl/distillation/heads.py:ProjectionHead.forward
    L2 bottleneck, appendix A                           dinopl/distillation/heads.py:ProjectionHead.bottleneck
    variants of the L2 bottleneck, appendix B.2         dinopl/distillation/heads.py:BottleneckLayer.pair
    weight normalisation, appendix A                    dinopl/distillation/heads.py:unit_rows
    weight normalisation, by autograd                   dinopl/distillation/heads.py:plain_unit_rows
    norms of the encoder, appendix B.1                  dinopl/encoders/common.py:GroupedNorm
    random frozen teacher, section 3                    dinopl/distillation/teachers.py:DrawnTeacher.draw
    moving average of the student, section 3            dinopl/distillation/teachers.py:EMATeacher.after_step
    student of an earlier epoch, published code         dinopl/distillation/teachers.py:PreviousEpochTeacher
    student starts at the teacher, section 4            dinopl/distillation/student_start.py:TeacherCopy
    variance-preserving interpolation, section 4        dinopl/distillation/student_start.py:interpolate
    neighbourhood of the teacher, published code        dinopl/distillation/student_start.py:neighbourhood
    distillation step, sections 3 and 4                 dinopl/distillation/module.py:SelfDistillation.training_step
    schedules, appendices E.3 and E.5                   dinopl/core/schedules.py:Schedule
    crops and their roles, appendix E.2                 dinopl/data/views.py:MultiCrop
    augmentation of DINO, appendix E.2                  dinopl/data/views.py:DINOAugmentation
    linear probe, section 3                             dinopl/probes/linear.py:linear_probe
    k-NN probe, appendix C.1                            dinopl/probes/knn.py:knn_predict
    k-NN weighted by cosine, DINO                       dinopl/probes/knn.py:weighted_knn_predict
    RankMe, its equation 1                              dinopl/probes/collapse.py:rankme
    alpha-ReQ, its section 3                            dinopl/probes/collapse.py:alpha_req
    LiDAR, its equations 1 to 4                         dinopl/probes/collapse.py:lidar
    distances and norms of parameters, appendix D       dinopl/distillation/monitors.py:parameter_statistics
    statistics of features, published code              dinopl/distillation/monitors.py:feature_statistics
    variance of the gradient, published code            dinopl/distillation/monitors.py:gradient_variance
    subsets of the training images, section 4           dinopl/data/subsets.py:stratified_subset
    Gaussian noise as input, section 4                  dinopl/data/sources/noise.py:NoiseImages
"""
